using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>A learned byte-level vocabulary, ready to be written as Hugging Face files.</summary>
public sealed class BpeVocabulary
{
    private static readonly JsonSerializerOptions json = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
    private readonly IReadOnlyList<string> specialTokens;

    internal BpeVocabulary(IReadOnlyList<string> tokens, IReadOnlyList<(string Left, string Right)> merges, IReadOnlyList<string> specialTokens)
    {
        Tokens = tokens;
        Merges = merges;
        this.specialTokens = specialTokens;
    }

    /// <summary>The tokens in order of their ids, in the alphabet of GPT-2 ("Ġthe").</summary>
    public IReadOnlyList<string> Tokens { get; }

    /// <summary>The merges in order of rank.</summary>
    public IReadOnlyList<(string Left, string Right)> Merges { get; }

    /// <summary>Writes <c>tokenizer.json</c> and <c>tokenizer_config.json</c>, which Hugging Face's libraries and <see cref="Tokenizer.Load"/> read.</summary>
    /// <param name="folder">Where to; made when missing.</param>
    /// <param name="maximumLength">The longest text of the model that it belongs to, in tokens; null leaves it unsaid.</param>
    /// <returns>The tokeniser.</returns>
    public Tokenizer Save(string folder, int? maximumLength = null)
    {
        Directory.CreateDirectory(folder);
        Write(Path.Combine(folder, "tokenizer.json"), TokenizerJson());
        Write(Path.Combine(folder, "tokenizer_config.json"), Configuration(maximumLength));
        return Tokenizer.Load(folder);
    }

    private JsonObject TokenizerJson()
    {
        var vocabulary = new JsonObject(Tokens.Select((token, id) => KeyValuePair.Create(token, (JsonNode?)id)));
        return new JsonObject
        {
            ["version"] = "1.0",
            ["truncation"] = null,
            ["padding"] = null,
            ["added_tokens"] = new JsonArray([.. specialTokens.Select((token, id) => new JsonObject
            {
                ["id"] = id,
                ["content"] = token,
                ["single_word"] = false,
                ["lstrip"] = false,
                ["rstrip"] = false,
                ["normalized"] = false,
                ["special"] = true,
            })]),
            ["normalizer"] = null,
            ["pre_tokenizer"] = ByteLevel(addPrefixSpace: false),
            ["post_processor"] = null,
            ["decoder"] = ByteLevel(addPrefixSpace: true),
            ["model"] = new JsonObject
            {
                ["type"] = "BPE",
                ["dropout"] = null,
                ["unk_token"] = Named("<unk>"),
                ["continuing_subword_prefix"] = null,
                ["end_of_word_suffix"] = null,
                ["fuse_unk"] = false,
                ["byte_fallback"] = false,
                ["vocab"] = vocabulary,
                ["merges"] = new JsonArray([.. Merges.Select(m => (JsonNode)$"{m.Left} {m.Right}")]),
            },
        };
    }

    private JsonObject Configuration(int? maximumLength)
    {
        var result = new JsonObject
        {
            ["tokenizer_class"] = "PreTrainedTokenizerFast",
            ["bos_token"] = Named("<s>"),
            ["eos_token"] = Named("</s>"),
            ["unk_token"] = Named("<unk>"),
            ["add_bos_token"] = false,
            ["clean_up_tokenization_spaces"] = false,
        };
        if (maximumLength is { } length)
        {
            result["model_max_length"] = length;
        }

        return result;
    }

    private string? Named(string token) => specialTokens.Contains(token) ? token : null;

    private static JsonObject ByteLevel(bool addPrefixSpace) => new()
    {
        ["type"] = "ByteLevel",
        ["add_prefix_space"] = addPrefixSpace,
        ["trim_offsets"] = true,
        ["use_regex"] = true,
    };

    /// <summary>Under a temporary name first, so that a stop half-way leaves no damaged file.</summary>
    private static void Write(string path, JsonObject content)
    {
        try
        {
            File.WriteAllText(path + ".part", content.ToJsonString(json) + "\n");
            File.Move(path + ".part", path, overwrite: true);
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            throw new EspalierException($"The tokeniser could not be written to \"{path}\": {fault.Message}", fault);
        }
    }
}
