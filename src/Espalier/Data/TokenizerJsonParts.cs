using System.Text.Json;
using System.Text.RegularExpressions;
using Espalier.Runtime;
using static Espalier.Data.TokenizerJson;

namespace Espalier.Data;

/// <summary>Reads the <c>normalizer</c> of a tokenizer.json.</summary>
internal sealed class NormalizerReader(string path)
{
    public Func<string, string> Read(JsonElement element)
    {
        if (element.ValueKind is JsonValueKind.Null or JsonValueKind.Undefined)
        {
            return text => text;
        }

        switch (Text(element, "type"))
        {
            case "Sequence":
                Func<string, string>[] steps = [.. Member(element, "normalizers").EnumerateArray().Select(Read)];
                return text => steps.Aggregate(text, (current, step) => step(current));
            case "Prepend":
                string prefix = Text(element, "prepend") ?? "";
                return text => text.Length == 0 ? text : prefix + text;
            case "Replace":
                string content = Text(element, "content") ?? "";
                if (Text(Member(element, "pattern"), "String") is { Length: > 0 } plain)
                {
                    return text => text.Replace(plain, content, StringComparison.Ordinal);
                }

                Regex regex = PreTokenizerReader.Pattern(path, Text(Member(element, "pattern"), "Regex") ?? "");
                return text => regex.Replace(text, _ => content);
            case "NFC": return CanonicalForms.Compose;
            case "NFD": return CanonicalForms.Decompose;
            case "Lowercase": return text => text.ToLowerInvariant();
            case "Strip":
                bool left = Flag(element, "strip_left"), right = Flag(element, "strip_right");
                return text => left && right ? text.Trim() : left ? text.TrimStart() : right ? text.TrimEnd() : text;
            case var type:
                throw new EspalierException($"The tokeniser \"{path}\" normalises with \"{type}\", which is not supported; supported are Sequence, Prepend, Replace, NFC, NFD, Lowercase and Strip.");
        }
    }
}

/// <summary>Reads the <c>pre_tokenizer</c> of a tokenizer.json.</summary>
internal sealed class PreTokenizerReader(string path)
{
    private readonly List<PreTokenizerStep> steps = [];
    private bool byteLevel;

    /// <summary>The steps, and whether one of them asks for the byte alphabet.</summary>
    public (List<PreTokenizerStep> Steps, bool ByteLevel) Read(JsonElement element)
    {
        if (element.ValueKind is not (JsonValueKind.Null or JsonValueKind.Undefined))
        {
            Add(element);
        }

        return (steps, byteLevel);
    }

    /// <summary>Compiles a pattern of the file.</summary>
    public static Regex Pattern(string path, string pattern)
    {
        try
        {
            // A pattern from a stranger may go back and forth for ever; no honest one needs a second for one match.
            return new Regex(pattern, RegexOptions.CultureInvariant, TimeSpan.FromSeconds(5));
        }
        catch (ArgumentException fault)
        {
            throw new EspalierException($"The tokeniser \"{path}\" has the pattern \"{pattern}\", which .NET's regular expressions cannot read: {fault.Message}", fault);
        }
    }

    private void Add(JsonElement element)
    {
        switch (Text(element, "type"))
        {
            case "Sequence":
                foreach (JsonElement part in Member(element, "pretokenizers").EnumerateArray())
                {
                    Add(part);
                }

                break;
            case "ByteLevel":
                byteLevel = true;
                if (Member(element, "add_prefix_space").ValueKind != JsonValueKind.False)
                {
                    steps.Add(new PrefixSpaceStep());
                }

                if (Member(element, "use_regex").ValueKind != JsonValueKind.False)
                {
                    AddSplit(SplitStep.Gpt2Pattern, SplitBehavior.Isolated);
                }

                break;
            case "Split":
                JsonElement pattern = Member(element, "pattern");
                AddSplit(Text(pattern, "Regex") ?? Regex.Escape(Text(pattern, "String") ?? ""), Behavior(element, SplitBehavior.Isolated), Flag(element, "invert"));
                break;
            case "Digits":
                AddSplit(Flag(element, "individual_digits") ? @"\p{N}" : @"\p{N}+", SplitBehavior.Isolated);
                break;
            case "Punctuation":
                AddSplit(@"[!-/:-@\[-`{-~\p{P}]", Behavior(element, SplitBehavior.Isolated));
                break;
            case "Whitespace":
                AddSplit(@"\w+|[^\w\s]+", SplitBehavior.Removed, invert: true);
                break;
            case "WhitespaceSplit":
                AddSplit(@"\s+", SplitBehavior.Removed);
                break;
            case "Metaspace":
                string replacement = Text(element, "replacement") is { Length: 1 } given ? given : "▁";
                PrependScheme scheme = Text(element, "prepend_scheme") switch
                {
                    "first" => PrependScheme.First,
                    "never" => PrependScheme.Never,
                    "always" => PrependScheme.Always,
                    _ => Member(element, "add_prefix_space").ValueKind == JsonValueKind.False ? PrependScheme.Never : PrependScheme.Always,
                };
                steps.Add(new MetaspaceStep(replacement[0], scheme, split: Member(element, "split").ValueKind != JsonValueKind.False));
                break;
            case var type:
                throw new EspalierException($"The tokeniser \"{path}\" splits words with \"{type}\", which is not supported; supported are Sequence, ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit and Metaspace.");
        }
    }

    private void AddSplit(string pattern, SplitBehavior behavior, bool invert = false)
    {
        Pattern(path, pattern);
        steps.Add(new SplitStep(pattern, behavior, invert));
    }

    private SplitBehavior Behavior(JsonElement element, SplitBehavior usual) => Text(element, "behavior") switch
    {
        null => usual,
        "Isolated" => SplitBehavior.Isolated,
        "Removed" => SplitBehavior.Removed,
        "MergedWithPrevious" => SplitBehavior.MergedWithPrevious,
        "MergedWithNext" => SplitBehavior.MergedWithNext,
        "Contiguous" => SplitBehavior.Contiguous,
        var other => throw new EspalierException($"The tokeniser \"{path}\" splits with the behaviour \"{other}\", which is not known."),
    };
}

/// <summary>Reads the <c>post_processor</c> of a tokenizer.json: what is put around a single text.</summary>
internal sealed class TokenizerTemplate(string path, Func<string, int?> idOf)
{
    private readonly List<int> before = [], after = [];

    public IReadOnlyList<int> Before => before;

    public IReadOnlyList<int> After => after;

    public bool IsEmpty => before.Count == 0 && after.Count == 0;

    public void Read(JsonElement element)
    {
        switch (Text(element, "type"))
        {
            case null or "ByteLevel":
                break;
            case "Sequence":
                foreach (JsonElement part in Member(element, "processors").EnumerateArray())
                {
                    Read(part);
                }

                break;
            case "TemplateProcessing":
                ReadTemplate(element);
                break;
            case "BertProcessing" or "RobertaProcessing":
                Around(Member(element, "cls")[0].GetString(), Member(element, "sep")[0].GetString());
                break;
            case var type:
                throw new EspalierException($"The tokeniser \"{path}\" ends texts with \"{type}\", which is not supported; supported are TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel and Sequence.");
        }
    }

    /// <summary>Puts a token before and one after; null for none.</summary>
    public void Around(string? first, string? last)
    {
        if (first is not null)
        {
            before.Add(Id(first));
        }

        if (last is not null)
        {
            after.Add(Id(last));
        }
    }

    private void ReadTemplate(JsonElement element)
    {
        bool past = false;
        foreach (JsonElement item in Member(element, "single").EnumerateArray())
        {
            if (Member(item, "Sequence").ValueKind == JsonValueKind.Object)
            {
                past = true;
                continue;
            }

            string name = Text(Member(item, "SpecialToken"), "id") ?? "";
            JsonElement ids = Member(Member(Member(element, "special_tokens"), name), "ids");
            IEnumerable<int> listed = ids.ValueKind == JsonValueKind.Array ? ids.EnumerateArray().Select(i => i.GetInt32()) : [Id(name)];
            (past ? after : before).AddRange(listed);
        }
    }

    private int Id(string token) => idOf(token) ?? throw new EspalierException($"The tokeniser \"{path}\" puts \"{token}\" around texts, but its vocabulary has no such token.");
}
