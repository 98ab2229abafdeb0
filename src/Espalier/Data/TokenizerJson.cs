using System.Text.Json;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>Reads a Hugging Face <c>tokenizer.json</c> whose model is BPE; whatever it does not know, it says in a sentence.</summary>
internal sealed class TokenizerJson(string path, JsonElement root, SpecialTokens special)
{
    /// <summary>The kind of model in the file ("BPE", "Unigram", "WordPiece").</summary>
    public static string ModelType(JsonElement root)
    {
        JsonElement model = Member(root, "model");
        // The oldest files name no type; merges are what only BPE has.
        return Text(model, "type") ?? (Member(model, "merges").ValueKind == JsonValueKind.Array ? "BPE" : "an unnamed kind");
    }

    /// <summary>The tokeniser that the file describes.</summary>
    public Tokenizer Read()
    {
        string type = ModelType(root);
        EspalierException.Require(type == "BPE", $"The tokeniser \"{path}\" has a {type} model; supported are BPE here, and Unigram from a tokenizer.model beside it.");
        JsonElement model = Member(root, "model");
        Dictionary<string, int> vocabulary = Vocabulary(path, Member(model, "vocab"));
        (List<PreTokenizerStep> steps, bool byteLevel) = new PreTokenizerReader(path).Read(Member(root, "pre_tokenizer"));
        var options = new BytePairOptions
        {
            ByteLevel = byteLevel,
            ByteFallback = Flag(model, "byte_fallback"),
            IgnoreMerges = Flag(model, "ignore_merges"),
            FuseUnknown = Flag(model, "fuse_unk"),
            UnknownToken = Text(model, "unk_token"),
            SubwordPrefix = Text(model, "continuing_subword_prefix") ?? "",
            WordSuffix = Text(model, "end_of_word_suffix") ?? "",
        };
        List<AddedToken> added = AddedTokens();
        var template = new TokenizerTemplate(path, content => added.FirstOrDefault(t => t.Content == content)?.Id ?? (vocabulary.TryGetValue(content, out int id) ? id : null));
        template.Read(Member(root, "post_processor"));
        if (template.IsEmpty && special.Class.Length > 0 && special.Class != "PreTrainedTokenizerFast")
        {
            // The slow classes (Llama, GPT2) put these on themselves, from the configuration alone.
            template.Around(special.AddBegin == true ? special.Begin : null, special.AddEnd == true ? special.End : null);
        }

        return Build(new BytePairTokenizerParts
        {
            Vocabulary = vocabulary,
            Model = new BytePairModel(vocabulary, Merges(Member(model, "merges")), options),
            AddedTokens = added,
            Normalize = new NormalizerReader(path).Read(Member(root, "normalizer")),
            PreTokenizer = steps,
            Before = template.Before,
            After = template.After,
            ByteLevel = byteLevel,
            DropsFirstSpace = DropsFirstSpace(Member(root, "decoder")),
        }, special);
    }

    /// <summary>The tokeniser of a GPT-2 or OPT checkpoint that has no tokenizer.json.</summary>
    public static Tokenizer FromVocabularyAndMerges(string vocabularyPath, JsonElement vocabularyJson, string mergesPath, SpecialTokens special)
    {
        Dictionary<string, int> vocabulary = Vocabulary(vocabularyPath, vocabularyJson);
        IEnumerable<(string, string)> merges = File.ReadLines(mergesPath).Where((line, i) => line.Length > 0 && !(i == 0 && line.StartsWith("#version", StringComparison.Ordinal)))
            .Select((line, i) => Pair(mergesPath, line, i));
        string?[] named = [special.Begin, special.End, special.Pad, special.Unknown];
        List<AddedToken> added = [.. named.OfType<string>().Distinct().Where(vocabulary.ContainsKey).Select(t => new AddedToken(t, vocabulary[t]) { Special = true })];
        var template = new TokenizerTemplate(mergesPath, content => vocabulary.TryGetValue(content, out int id) ? id : null);
        template.Around(special.AddBegin == true ? special.Begin : null, special.AddEnd == true ? special.End : null);
        List<PreTokenizerStep> steps = [new SplitStep(SplitStep.Gpt2Pattern, SplitBehavior.Isolated, invert: false)];
        if (special.AddPrefixSpace == true)
        {
            steps.Insert(0, new PrefixSpaceStep());
        }

        return Build(new BytePairTokenizerParts
        {
            Vocabulary = vocabulary,
            Model = new BytePairModel(vocabulary, merges, new BytePairOptions { ByteLevel = true }),
            AddedTokens = added,
            PreTokenizer = steps,
            Before = template.Before,
            After = template.After,
            ByteLevel = true,
        }, special);
    }

    private static BytePairTokenizer Build(BytePairTokenizerParts parts, SpecialTokens special)
    {
        int? Find(string? token, int? id, params string[] usual)
        {
            int? Id(string? content) => content is null ? null
                : parts.AddedTokens.FirstOrDefault(t => t.Content == content)?.Id ?? (parts.Vocabulary.TryGetValue(content, out int known) ? known : null);
            return Id(token) ?? id ?? usual.Select(Id).FirstOrDefault(found => found is not null);
        }

        return new BytePairTokenizer(parts)
        {
            BeginId = Find(special.Begin, special.BeginId, "<s>", "<|begin_of_text|>", "<bos>"),
            EndId = Find(special.End, special.EndId, "</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>"),
            PadId = Find(special.Pad, null, "<pad>", "[PAD]"),
        };
    }

    private static Dictionary<string, int> Vocabulary(string path, JsonElement vocabulary)
    {
        EspalierException.Require(vocabulary.ValueKind == JsonValueKind.Object, $"The tokeniser \"{path}\" has no vocabulary (an object of tokens and ids): fetch the file again.");
        var result = new Dictionary<string, int>(StringComparer.Ordinal);
        foreach (JsonProperty entry in vocabulary.EnumerateObject())
        {
            bool valid = entry.Value.ValueKind == JsonValueKind.Number && entry.Value.TryGetInt32(out int id) && id is >= 0 and < 1 << 24;
            EspalierException.Require(valid, $"The vocabulary in \"{path}\" gives \"{entry.Name}\" the id {entry.Value.GetRawText()}, which is none: fetch the file again.");
            result[entry.Name] = entry.Value.GetInt32();
        }

        return result;
    }

    /// <summary>Merges are written "a b" (older files) or ["a", "b"] (newer ones, which allow spaces in tokens).</summary>
    private IEnumerable<(string, string)> Merges(JsonElement merges)
    {
        EspalierException.Require(merges.ValueKind == JsonValueKind.Array, $"The tokeniser \"{path}\" has no list of merges: fetch the file again.");
        return merges.EnumerateArray().Select((merge, i) => merge.ValueKind switch
        {
            JsonValueKind.String => Pair(path, merge.GetString()!, i),
            JsonValueKind.Array when merge.GetArrayLength() == 2 => (merge[0].GetString()!, merge[1].GetString()!),
            _ => throw new EspalierException($"Merge {i} in \"{path}\" is no pair of tokens: fetch the file again."),
        });
    }

    private static (string, string) Pair(string path, string merge, int index)
    {
        int space = merge.IndexOf(' ', StringComparison.Ordinal);
        EspalierException.Require(space > 0 && space < merge.Length - 1, $"Merge {index} in \"{path}\" is \"{merge}\", no pair of tokens: fetch the file again.");
        return (merge[..space], merge[(space + 1)..]);
    }

    private List<AddedToken> AddedTokens()
    {
        JsonElement list = Member(root, "added_tokens");
        return list.ValueKind != JsonValueKind.Array ? [] : [.. list.EnumerateArray().Select(t => new AddedToken(Text(t, "content") ?? "", Member(t, "id").GetInt32())
        {
            Special = Flag(t, "special"),
            Normalized = Flag(t, "normalized"),
            SingleWord = Flag(t, "single_word"),
            StripLeft = Flag(t, "lstrip"),
            StripRight = Flag(t, "rstrip"),
        })];
    }

    /// <summary>Whether a decoder ends by stripping one space from the start (Llama-2's sequence, or Metaspace).</summary>
    private static bool DropsFirstSpace(JsonElement decoder) => Text(decoder, "type") switch
    {
        "Sequence" => Member(decoder, "decoders").EnumerateArray().Any(DropsFirstSpace),
        "Strip" => Text(decoder, "content") == " " && Member(decoder, "start") is { ValueKind: JsonValueKind.Number } start && start.GetInt32() > 0,
        "Metaspace" => Text(decoder, "prepend_scheme") is { } scheme ? scheme != "never" : Member(decoder, "add_prefix_space").ValueKind != JsonValueKind.False,
        _ => false,
    };

    internal static JsonElement Member(JsonElement element, string name) =>
        element.ValueKind == JsonValueKind.Object && element.TryGetProperty(name, out JsonElement value) ? value : default;

    internal static string? Text(JsonElement element, string name) => Member(element, name) is { ValueKind: JsonValueKind.String } value ? value.GetString() : null;

    internal static bool Flag(JsonElement element, string name) => Member(element, name).ValueKind == JsonValueKind.True;
}
