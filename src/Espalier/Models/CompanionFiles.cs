using Espalier.Checkpoints;

namespace Espalier.Models;

/// <summary>The files that belong to a model beside its weights: configuration and tokeniser.</summary>
public static class CompanionFiles
{
    /// <summary>The tokeniser's files, whichever a model has.</summary>
    public static IReadOnlyList<string> Tokenizer { get; } =
    [
        "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
    ];

    /// <summary>Everything that is carried along when weights change and shapes do not; what else lies in the folder stays behind.</summary>
    public static IReadOnlyList<string> All { get; } = [ModelConfig.FileName, "generation_config.json", .. Tokenizer, "LICENSE", "LICENSE.txt"];

    /// <summary>Copies those that are there; a folder onto itself does nothing.</summary>
    public static void Copy(IReadOnlyList<string> names, string from, string to)
    {
        foreach (string name in names)
        {
            string source = Path.Combine(from, name), target = Path.Combine(to, name);
            if (File.Exists(source) && Path.GetFullPath(source) != Path.GetFullPath(target))
            {
                byte[] content = File.ReadAllBytes(source);
                AtomicFile.Write(target, stream => stream.Write(content));
            }
        }
    }
}
