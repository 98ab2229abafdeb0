using YamlDotNet.Core;
using YamlDotNet.Core.Events;
using YamlDotNet.RepresentationModel;

namespace Espalier.Runtime;

/// <summary>
/// A plan in YAML as nested maps of words, with the line of each, so that an error can say where. Command-line flags
/// change the same words. Immutable.
/// </summary>
/// <remarks>Scalars stay text; <see cref="OptionsBinder"/> turns them into what an option wants.</remarks>
public sealed class PlanFile
{
    private const int MostNodes = 10_000, Deepest = 20, LongestFile = 16 << 20;

    // Stands for the line of a word that a flag has set.
    private const long Flag = 0;

    private readonly Dictionary<string, long> _lines;

    private PlanFile(string origin, IReadOnlyDictionary<string, object?> values, Dictionary<string, long> lines) =>
        (Origin, Values, _lines) = (origin, values, lines);

    /// <summary>A plan without any word, for runs that are described by flags alone.</summary>
    public static PlanFile Empty { get; } = new("the command line", new Dictionary<string, object?>(), []);

    /// <summary>The file's path, or where else the words come from.</summary>
    public string Origin { get; }

    /// <summary>The words: text, null, lists and maps of these.</summary>
    public IReadOnlyDictionary<string, object?> Values { get; }

    /// <summary>Reads a plan.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="EspalierException">When there is no such file, or it is not YAML of the right form; says the line.</exception>
    public static PlanFile Read(string path)
    {
        EspalierException.Require(File.Exists(path), $"There is no plan '{path}'; give the path of a YAML file.");
        EspalierException.Require(new FileInfo(path).Length <= LongestFile, $"{path} has more than {LongestFile >> 20} MiB and is no plan.");
        return Parse(File.ReadAllText(path), path);
    }

    /// <summary>Reads a plan from text.</summary>
    /// <param name="yaml">The text.</param>
    /// <param name="origin">What to call it in messages.</param>
    /// <exception cref="EspalierException">When it is not YAML of the right form; says the line.</exception>
    public static PlanFile Parse(string yaml, string origin)
    {
        RequireDepth(yaml, origin);
        var stream = new YamlStream();
        var parser = new Parser(new StringReader(yaml));
        try
        {
            stream.Load(parser);
        }
        catch (Exception fault) when (fault is YamlException or InvalidOperationException or ArgumentException)
        {
            // Of some broken files (a bracket that is never closed) the reader does not say where it gave up.
            long line = fault is YamlException known ? known.Start.Line : parser.Current?.End.Line ?? 1;
            string reason = fault is YamlException ? $" ({(fault.InnerException ?? fault).Message.Split('\n')[0].Trim().TrimEnd('.')})" : "";
            throw new EspalierException($"{origin}, line {line}: this is not YAML{reason}; look at indentation, colons, quotes and brackets there.", fault);
        }

        EspalierException.Require(stream.Documents.Count > 0, $"{origin} is empty; a plan says at least what to do with which model.");
        EspalierException.Require(stream.Documents.Count == 1, $"{origin} holds {stream.Documents.Count} documents; a plan is one, so remove what stands between the '---' lines.");
        EspalierException.Require(stream.Documents[0].RootNode is YamlMappingNode, $"{origin}, line {stream.Documents[0].RootNode.Start.Line}: a plan is a map of words to values, for example 'model: ./llama'.");
        var lines = new Dictionary<string, long>(StringComparer.OrdinalIgnoreCase);
        int nodes = 0;
        var values = (Dictionary<string, object?>)Convert(stream.Documents[0].RootNode, "", origin, lines, ref nodes, 0)!;
        return new PlanFile(origin, values, lines);
    }

    /// <summary>Words as YAML that <see cref="Parse"/> reads back.</summary>
    /// <param name="values">Text, null, lists and maps of these.</param>
    public static string ToYaml(IReadOnlyDictionary<string, object?> values) =>
        values.Count == 0 ? "" : new YamlDotNet.Serialization.SerializerBuilder().WithQuotingNecessaryStrings().Build().Serialize(values);

    /// <summary>The line of a word ("prune.sparsity"), from 1; null where the file has none.</summary>
    public long? LineOf(string path) => _lines.TryGetValue(Bare(path), out long line) && line != Flag ? line : null;

    /// <summary>What stands under a word ("prune.pattern"): text, a list or a map; null where nothing does.</summary>
    public object? At(string path)
    {
        object? found = Values;
        foreach (string word in path.Split('.'))
        {
            IReadOnlyDictionary<string, object?>? map = found as IReadOnlyDictionary<string, object?>;
            found = map?.FirstOrDefault(p => Bare(p.Key) == Bare(word)).Value;
        }

        return found;
    }

    /// <summary>The plan with one word changed or added: what a flag on the command line does.</summary>
    /// <param name="path">The word with those above it ("prune.sparsity").</param>
    /// <param name="value">Its value; text as in a file, or a list or map of texts.</param>
    /// <exception cref="EspalierException">When a word on the way holds something other than a map.</exception>
    public PlanFile With(string path, object? value) =>
        new(Origin, Changed(Values, path.Split('.'), 0, value), new Dictionary<string, long>(_lines, _lines.Comparer) { [Bare(path)] = Flag });

    /// <summary>Whether the plan has a word at its top.</summary>
    public bool Has(string word) => Values.Keys.Any(k => Bare(k) == Bare(word));

    /// <summary>The maps of a list as plans of their own, with their lines in this file.</summary>
    /// <param name="word">The list's word ("plans").</param>
    /// <exception cref="EspalierException">When the word holds something other than a list of maps.</exception>
    public IReadOnlyList<PlanFile> Parts(string word)
    {
        object? list = Values.FirstOrDefault(v => Bare(v.Key) == Bare(word)).Value;
        EspalierException.Require(list is IReadOnlyList<object?> items && items.All(i => i is IReadOnlyDictionary<string, object?>),
            $"{Place(word)}: '{word}' is a list of maps, one for each, for example '- {{ name: first }}'.");
        return [.. ((IReadOnlyList<object?>)list!).Select((item, i) => new PlanFile(Origin, (IReadOnlyDictionary<string, object?>)item!, LinesUnder($"{Bare(word)}[{i}].")))];
    }

    /// <summary>Fills an options record; unknown words are named with their line and the nearest known one.</summary>
    /// <typeparam name="T">The record.</typeparam>
    /// <exception cref="EspalierException">For unknown words and values of the wrong kind.</exception>
    public T Bind<T>()
    {
        Check(Values, typeof(T), "");
        try
        {
            return OptionsBinder.Bind<T>(Values, "the plan");
        }
        catch (EspalierException fault)
        {
            throw new EspalierException($"{Origin}: {fault.Message}", fault);
        }
    }

    /// <summary>"plan.yaml, line 4" where the word's line is known, "the command line" where a flag has set it, else where the plan comes from.</summary>
    public string Place(string path) =>
        LineOf(path) is { } line ? $"{Origin}, line {line}" : _lines.ContainsKey(Bare(path)) ? Empty.Origin : Origin;

    private Dictionary<string, long> LinesUnder(string prefix) =>
        _lines.Where(l => l.Key.StartsWith(prefix, StringComparison.Ordinal)).ToDictionary(l => l.Key[prefix.Length..], l => l.Value, StringComparer.OrdinalIgnoreCase);

    private void Check(IReadOnlyDictionary<string, object?> values, Type type, string path)
    {
        IReadOnlyList<string> known = OptionsBinder.Names(type);
        foreach ((string word, object? value) in values)
        {
            string full = path.Length == 0 ? word : $"{path}.{word}";
            string? name = known.FirstOrDefault(k => Bare(k) == Bare(word));
            EspalierException.Require(name is not null,
                $"{Place(full)}: '{full}' is no word of a plan{(path.Length == 0 ? "" : $" under '{path}'")}; known are {string.Join(", ", known)}.{NearestWord.Suggest(word, known)}");
            Type wanted = type.GetProperties().First(p => Bare(p.Name) == Bare(word)).PropertyType;
            if (value is IReadOnlyDictionary<string, object?> nested && wanted != typeof(object) && OptionsBinder.Names(wanted).Count > 0)
            {
                Check(nested, wanted, full);
                continue;
            }

            try
            {
                OptionsBinder.Convert(value, wanted, full);
            }
            catch (EspalierException fault)
            {
                throw new EspalierException($"{Place(full)}: {fault.Message}", fault);
            }
        }
    }

    private Dictionary<string, object?> Changed(IReadOnlyDictionary<string, object?> values, string[] path, int depth, object? value)
    {
        var changed = new Dictionary<string, object?>(values);
        string word = changed.Keys.FirstOrDefault(k => Bare(k) == Bare(path[depth])) ?? path[depth];
        if (depth == path.Length - 1)
        {
            changed[word] = value;
            return changed;
        }

        object? below = changed.GetValueOrDefault(word);
        string full = string.Join('.', path[..(depth + 1)]);
        EspalierException.Require(below is null or IReadOnlyDictionary<string, object?>,
            $"{Place(full)}: '{full}' is {(below is string text ? $"'{text}'" : "a list")}, so '{string.Join('.', path)}' cannot be set; write '{full}' as a map.");
        changed[word] = Changed(below as IReadOnlyDictionary<string, object?> ?? new Dictionary<string, object?>(), path, depth + 1, value);
        return changed;
    }

    // The tree is built, and keys are compared, by recursion: a hundred thousand brackets, a list that holds itself or a key that doubles at every
    // level would drive it over the end of the stack or on for ever. The events are looked over first.
    private static void RequireDepth(string yaml, string origin)
    {
        var parser = new Parser(new StringReader(yaml));
        var open = new Stack<(bool IsMap, bool AtKey, string Anchor)>();
        try
        {
            while (parser.MoveNext())
            {
                ParsingEvent found = parser.Current!;
                string place = $"{origin}, line {found.Start.Line}";
                if (found is SequenceEnd or MappingEnd)
                {
                    open.Pop();
                    continue;
                }

                if (found is not (NodeEvent or AnchorAlias))
                {
                    continue;
                }

                if (open.TryPop(out (bool IsMap, bool AtKey, string Anchor) around))
                {
                    EspalierException.Require(!around.IsMap || !around.AtKey || found is Scalar, $"{place}: a word of the plan must be plain text.");
                    open.Push(around with { AtKey = !around.AtKey });
                }

                EspalierException.Require(found is not AnchorAlias alias || !open.Any(o => o.Anchor == alias.Value.Value), $"{place}: this part of the plan holds itself; a plan ends somewhere.");
                if (found is SequenceStart or MappingStart)
                {
                    AnchorName anchor = ((NodeEvent)found).Anchor;
                    open.Push((found is MappingStart, true, anchor.IsEmpty ? "" : anchor.Value));
                    EspalierException.Require(open.Count <= Deepest + 2, $"{place}: the plan is too deep; it has at most {Deepest} levels.");
                }
            }
        }
        catch (Exception fault) when (fault is YamlException or InvalidOperationException or ArgumentException)
        {
            // The tree's reader says it better.
        }
    }

    private static object? Convert(YamlNode node, string path, string origin, Dictionary<string, long> lines, ref int nodes, int depth)
    {
        // A small file can name its parts again and again and grow without bound when they are written out.
        EspalierException.Require(++nodes <= MostNodes && depth <= Deepest, $"{origin}, line {node.Start.Line}: the plan is too large or too deep; a plan has at most {MostNodes} words and {Deepest} levels.");
        switch (node)
        {
            case YamlScalarNode scalar:
                return scalar.Style is ScalarStyle.Plain && scalar.Value is null or "" or "~" or "null" ? null : scalar.Value;
            case YamlSequenceNode sequence:
                var list = new List<object?>();
                foreach (YamlNode item in sequence)
                {
                    list.Add(Convert(item, $"{path}[{list.Count}]", origin, lines, ref nodes, depth + 1));
                }

                return list;
            case YamlMappingNode mapping:
                var map = new Dictionary<string, object?>();
                foreach ((YamlNode key, YamlNode value) in mapping)
                {
                    EspalierException.Require(key is YamlScalarNode { Value: not null }, $"{origin}, line {key.Start.Line}: a word of the plan must be plain text.");
                    string word = ((YamlScalarNode)key).Value!, full = path.Length == 0 ? word : $"{path}.{word}";
                    EspalierException.Require(!map.Keys.Any(k => Bare(k) == Bare(word)), $"{origin}, line {key.Start.Line}: '{full}' is there twice; remove one of them.");
                    lines[Bare(full)] = key.Start.Line;
                    map[word] = Convert(value, full, origin, lines, ref nodes, depth + 1);
                }

                return map;
            default:
                throw new EspalierException($"{origin}, line {node.Start.Line}: this form of YAML has no meaning in a plan.");
        }
    }

    // learning_rate, learning-rate and LearningRate are one word, as for the binder.
    private static string Bare(string name) => name.Replace("_", "").Replace("-", "").ToLowerInvariant();
}
