using System.Text.Json;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>Finds the tokeniser among a model's files and reads what they say about special tokens.</summary>
internal static class TokenizerFiles
{
    private const string Supported = "tokenizer.json with a BPE model, tokenizer.model (SentencePiece), and vocab.json with merges.txt";

    public static Tokenizer Load(string path)
    {
        try
        {
            return Find(path);
        }
        catch (Exception fault) when (fault is InvalidOperationException or FormatException or IndexOutOfRangeException or ArgumentException or OverflowException)
        {
            // A member has another kind of value than the format gives it, or text that is none.
            throw new EspalierException($"The tokeniser files at \"{path}\" are damaged ({fault.Message.ReplaceLineEndings(" ").TrimEnd('.')}); fetch them again.", fault);
        }
    }

    private static Tokenizer Find(string path)
    {
        EspalierException.Require(File.Exists(path) || Directory.Exists(path), $"There is no tokeniser at \"{path}\": name the folder of a model, with {Supported}.");
        string folder = Directory.Exists(path) ? path : Path.GetDirectoryName(Path.GetFullPath(path))!;
        string? json = File.Exists(path) && path.EndsWith(".json", StringComparison.OrdinalIgnoreCase) ? path : Existing(folder, "tokenizer.json");
        string? model = File.Exists(path) && path.EndsWith(".model", StringComparison.OrdinalIgnoreCase) ? path : Existing(folder, "tokenizer.model") ?? Existing(folder, "spiece.model");
        if (File.Exists(path))
        {
            EspalierException.Require(path == json || path == model, $"\"{path}\" is no tokeniser file that can be read; supported are {Supported}.");
            json = path == json ? json : null;
            model = path == model ? model : null;
        }

        SpecialTokens special = SpecialTokens.Read(folder);
        if (json is not null)
        {
            using JsonDocument document = ReadJson(json);
            // A Unigram tokenizer.json (T5) is read from the SentencePiece model it was made from, where that lies beside it.
            if (model is null || TokenizerJson.ModelType(document.RootElement) == "BPE")
            {
                return ReadTokenizerJson(json, document.RootElement, special);
            }
        }

        if (model is not null)
        {
            return SentencePieceModel.Read(model, special);
        }

        if (Existing(folder, "vocab.json") is { } vocabulary && Existing(folder, "merges.txt") is { } merges)
        {
            using JsonDocument document = ReadJson(vocabulary);
            return TokenizerJson.FromVocabularyAndMerges(vocabulary, document.RootElement, merges, special);
        }

        string[] found = [.. Directory.EnumerateFiles(folder).Select(f => Path.GetFileName(f)!).Where(LooksLikeTokenizer).Order(StringComparer.Ordinal)];
        string there = found.Length == 0 ? "no tokeniser files" : string.Join(", ", found);
        throw new EspalierException($"No tokeniser can be read from \"{folder}\": it has {there}; supported are {Supported}.");
    }

    private static Tokenizer ReadTokenizerJson(string path, JsonElement root, SpecialTokens special)
    {
        try
        {
            return new TokenizerJson(path, root, special).Read();
        }
        catch (Exception fault) when (fault is InvalidOperationException or FormatException or IndexOutOfRangeException)
        {
            // A member has another kind of value than the format gives it.
            throw new EspalierException($"\"{path}\" is JSON but no tokeniser as Hugging Face writes them: {fault.Message.TrimEnd('.')}; fetch the file again.", fault);
        }
    }

    /// <summary>Parses a JSON file.</summary>
    /// <exception cref="EspalierException">When it is damaged, with the line.</exception>
    internal static JsonDocument ReadJson(string path)
    {
        try
        {
            return JsonDocument.Parse(File.ReadAllBytes(path).AsMemory(Utf8BomLength(path)), new JsonDocumentOptions { AllowTrailingCommas = true });
        }
        catch (JsonException fault)
        {
            throw new EspalierException($"\"{path}\" is no valid JSON (line {fault.LineNumber + 1}): the file is damaged or was not downloaded whole; fetch it again.", fault);
        }
    }

    private static int Utf8BomLength(string path)
    {
        using FileStream stream = File.OpenRead(path);
        Span<byte> head = stackalloc byte[3];
        return stream.ReadAtLeast(head, 3, throwOnEndOfStream: false) == 3 && head.SequenceEqual((ReadOnlySpan<byte>)[0xEF, 0xBB, 0xBF]) ? 3 : 0;
    }

    private static string? Existing(string folder, string name) => Path.Combine(folder, name) is var path && File.Exists(path) ? path : null;

    private static bool LooksLikeTokenizer(string name) =>
        name.Contains("token", StringComparison.OrdinalIgnoreCase) || name.StartsWith("vocab", StringComparison.OrdinalIgnoreCase)
        || name is "merges.txt" || name.EndsWith(".model", StringComparison.OrdinalIgnoreCase) || name.EndsWith(".tiktoken", StringComparison.OrdinalIgnoreCase);
}

/// <summary>What <c>tokenizer_config.json</c>, <c>special_tokens_map.json</c> and <c>config.json</c> say about special tokens.</summary>
internal sealed record SpecialTokens
{
    public string? Begin { get; init; }

    public string? End { get; init; }

    public string? Pad { get; init; }

    public string? Unknown { get; init; }

    /// <summary>The ids that <c>config.json</c> names, used where no token is named.</summary>
    public int? BeginId { get; init; }

    public int? EndId { get; init; }

    public bool? AddBegin { get; init; }

    public bool? AddEnd { get; init; }

    public bool? AddPrefixSpace { get; init; }

    /// <summary>The class that the library of the checkpoint's makers would use ("LlamaTokenizer").</summary>
    public string Class { get; init; } = "";

    public static SpecialTokens Read(string folder)
    {
        using JsonDocument? config = Open(folder, "tokenizer_config.json");
        using JsonDocument? map = Open(folder, "special_tokens_map.json");
        using JsonDocument? model = Open(folder, "config.json");
        string? Token(string name) => Text(config, name) ?? Text(map, name);
        return new SpecialTokens
        {
            Begin = Token("bos_token"),
            End = Token("eos_token"),
            Pad = Token("pad_token"),
            Unknown = Token("unk_token"),
            BeginId = Number(model, "bos_token_id"),
            EndId = Number(model, "eos_token_id"),
            AddBegin = Flag(config, "add_bos_token"),
            AddEnd = Flag(config, "add_eos_token"),
            AddPrefixSpace = Flag(config, "add_prefix_space"),
            Class = Text(config, "tokenizer_class") ?? "",
        };
    }

    private static JsonDocument? Open(string folder, string name) =>
        Path.Combine(folder, name) is var path && File.Exists(path) ? TokenizerFiles.ReadJson(path) : null;

    private static JsonElement? Find(JsonDocument? document, string name) =>
        document?.RootElement is { ValueKind: JsonValueKind.Object } root && root.TryGetProperty(name, out JsonElement value) ? value : null;

    /// <summary>A token is written as a string or as an object with its <c>content</c>.</summary>
    private static string? Text(JsonDocument? document, string name) => Find(document, name) switch
    {
        { ValueKind: JsonValueKind.String } value => value.GetString(),
        { ValueKind: JsonValueKind.Object } value when value.TryGetProperty("content", out JsonElement content) && content.ValueKind == JsonValueKind.String => content.GetString(),
        _ => null,
    };

    /// <summary>An id is a number or, for several possible ends, a list whose first counts.</summary>
    private static int? Number(JsonDocument? document, string name) => Find(document, name) switch
    {
        { ValueKind: JsonValueKind.Number } value when value.TryGetInt32(out int id) => id,
        { ValueKind: JsonValueKind.Array } value when value.GetArrayLength() > 0 && value[0].ValueKind == JsonValueKind.Number && value[0].TryGetInt32(out int id) => id,
        _ => null,
    };

    private static bool? Flag(JsonDocument? document, string name) => Find(document, name)?.ValueKind switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => null,
    };
}
