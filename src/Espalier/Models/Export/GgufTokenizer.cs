using System.Text.Json;
using Espalier.Checkpoints.Gguf;
using Espalier.Data;
using Espalier.Runtime;

namespace Espalier.Models.Export;

/// <summary>Puts a model's tokeniser into the head of a GGUF file, as llama.cpp reads it.</summary>
internal static class GgufTokenizer
{
    private const string Contractions = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|";
    private const string Rest = @"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Llama3Pattern = Contractions + @"\p{N}{1,3}" + Rest, Qwen2Pattern = Contractions + @"\p{N}" + Rest;

    /// <summary>Adds the tokeniser's keys.</summary>
    /// <param name="metadata">Where to.</param>
    /// <param name="folder">The model's folder.</param>
    /// <param name="config">The model.</param>
    /// <returns>What the user should know.</returns>
    /// <exception cref="EspalierException">When the tokeniser is damaged, of a kind that llama.cpp lacks, or larger than the model's vocabulary.</exception>
    public static IEnumerable<string> Describe(GgufMetadata metadata, string folder, ModelConfig config)
    {
        if (!((string[])["tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json"]).Any(name => File.Exists(Path.Combine(folder, name))))
        {
            metadata.Add("tokenizer.ggml.model", "no_vocab");
            return ["The model has no tokeniser beside it, so the file has none; other programs can run it on token ids only."];
        }

        var tokenizer = Tokenizer.Load(folder);
        TokenizerTable table = tokenizer.ToTable();
        EspalierException.Require(table.Tokens.Count <= config.VocabSize, $"The tokeniser in {folder} has {table.Tokens.Count} tokens and the model {config.VocabSize}; they do not belong together.");
        var notes = new List<string>();
        metadata.Add("tokenizer.ggml.model", table.ByteLevel ? "gpt2" : "llama");
        metadata.Add("tokenizer.ggml.pre", table.ByteLevel ? PreTokenizer(table, notes) : "default");

        // llama.cpp wants a token for every row of the table of embeddings.
        int[] ids = [.. Enumerable.Range(0, config.VocabSize)];
        metadata.Add("tokenizer.ggml.tokens", ids.Select(i => (i < table.Tokens.Count ? table.Tokens[i] : null) ?? $"[PAD{i}]").ToArray());
        metadata.Add("tokenizer.ggml.token_type", ids.Select(i => (int)(i < table.Kinds.Count ? table.Kinds[i] : TokenKind.Unused)).ToArray());
        if (table.ByteLevel)
        {
            metadata.Add("tokenizer.ggml.merges", table.Merges.Select(m => $"{m.Left} {m.Right}").ToArray());
        }
        else
        {
            metadata.Add("tokenizer.ggml.scores", ids.Select(i => i < table.Scores.Count ? table.Scores[i] : 0).ToArray());
        }

        AddId("bos", tokenizer.BeginId);
        AddId("eos", tokenizer.EndId);
        AddId("unknown", table.UnknownId);
        AddId("padding", tokenizer.PadId);
        bool begins = table.Before.Count > 0, ends = table.After.Count > 0;
        bool known = (!begins || (table.Before.Count == 1 && table.Before[0] == tokenizer.BeginId)) && (!ends || (table.After.Count == 1 && table.After[0] == tokenizer.EndId));
        if (!known)
        {
            notes.Add("The tokeniser puts other tokens around a text than a beginning and an end, which llama.cpp cannot do; texts begin otherwise there.");
        }

        metadata.Add("tokenizer.ggml.add_bos_token", begins);
        metadata.Add("tokenizer.ggml.add_eos_token", ends);
        metadata.Add("tokenizer.ggml.add_space_prefix", table.AddsPrefixSpace);
        if (ChatTemplate(folder) is { } template)
        {
            metadata.Add("tokenizer.chat_template", template);
        }

        return notes;

        void AddId(string name, int? id)
        {
            if (id is { } number)
            {
                metadata.Add($"tokenizer.ggml.{name}_token_id", (uint)number);
            }
        }
    }

    // llama.cpp has the patterns in its code, by name.
    private static string PreTokenizer(TokenizerTable table, List<string> notes)
    {
        string? name = table.Patterns switch
        {
            [SplitStep.Gpt2Pattern] => "gpt-2",
            [Llama3Pattern] => table.IgnoreMerges ? "llama-bpe" : "smaug-bpe",
            [Qwen2Pattern] => "qwen2",
            _ => null,
        };
        if (name is null)
        {
            notes.Add("llama.cpp has no name for the way in which this tokeniser cuts words; its default is named instead, and some texts will be cut otherwise there.");
        }

        return name ?? "default";
    }

    private static string? ChatTemplate(string folder)
    {
        if (Path.Combine(folder, "chat_template.jinja") is var file && File.Exists(file))
        {
            return File.ReadAllText(file);
        }

        if (Path.Combine(folder, "tokenizer_config.json") is var path && !File.Exists(path))
        {
            return null;
        }

        using JsonDocument document = TokenizerFiles.ReadJson(path);
        return TokenizerJson.Text(document.RootElement, "chat_template");
    }
}
