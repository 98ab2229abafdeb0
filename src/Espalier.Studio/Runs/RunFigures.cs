using System.Globalization;
using System.Text.Json;
using Espalier.Runs;

namespace Espalier.Studio.Runs;

/// <summary>The perplexity of a stage of the model.</summary>
/// <param name="Stage">dense, pruned, retrained, …</param>
/// <param name="Perplexity">Its perplexity.</param>
public sealed record StageFigure(string Stage, double Perplexity);

/// <summary>One layer of a pruned model.</summary>
/// <param name="Name">Its weight.</param>
/// <param name="Sparsity">The share that went.</param>
/// <param name="Error">The relative error of its outputs; null where it was not measured.</param>
public sealed record LayerFigure(string Name, double Sparsity, double? Error);

/// <summary>A text before and after.</summary>
/// <param name="Prompt">How it begins.</param>
/// <param name="Continuations">How each stage goes on.</param>
public sealed record SampleFigure(string Prompt, IReadOnlyDictionary<string, string> Continuations);

/// <summary>What a run came to, as the pages and comparisons need it; whatever it did not measure is null or empty.</summary>
public sealed record RunFigures
{
    /// <summary>Perplexity by stage.</summary>
    public IReadOnlyList<StageFigure> Quality { get; init; } = [];

    /// <summary>The perplexity at the end.</summary>
    public double? Perplexity => Quality.Count > 0 ? Quality[^1].Perplexity : null;

    /// <summary>The share of what was lost that was won back.</summary>
    public double? WonBack { get; init; }

    /// <summary>All parameters.</summary>
    public long? Parameters { get; init; }

    /// <summary>Parameters that are neither zero nor cut.</summary>
    public long? Left { get; init; }

    /// <summary>The share of prunable weights that went.</summary>
    public double? Sparsity { get; init; }

    /// <summary>Parameters that were trained.</summary>
    public long? Trained { get; init; }

    /// <summary>The smallest form of the model that was measured, bytes.</summary>
    public long? Bytes { get; init; }

    /// <summary>The fastest decoding that was measured of the finished model.</summary>
    public double? TokensPerSecond { get; init; }

    /// <summary>Seconds of work.</summary>
    public double? Seconds { get; init; }

    /// <summary>The highest memory of the process, bytes.</summary>
    public long? PeakMemory { get; init; }

    /// <summary>Layers in the order of the model.</summary>
    public IReadOnlyList<LayerFigure> Layers { get; init; } = [];

    /// <summary>The relative error of each block's outputs.</summary>
    public IReadOnlyList<double?> BlockErrors { get; init; } = [];

    /// <summary>Texts before and after.</summary>
    public IReadOnlyList<SampleFigure> Samples { get; init; } = [];

    /// <summary>What it is made of, part by part.</summary>
    public IReadOnlyDictionary<string, string> Parts { get; init; } = new Dictionary<string, string>();

    /// <summary>Reads the outcome of a run; one that is no report gives no figures.</summary>
    public static RunFigures Of(Run run)
    {
        if (run.Outcome.Length == 0)
        {
            return new RunFigures();
        }

        try
        {
            using JsonDocument document = JsonDocument.Parse(run.Outcome);
            return Read(document.RootElement);
        }
        catch (Exception fault) when (fault is JsonException or InvalidOperationException or FormatException)
        {
            // Another command's outcome, or another version's.
            return new RunFigures();
        }
    }

    private static RunFigures Read(JsonElement root)
    {
        if (root.ValueKind is not JsonValueKind.Object)
        {
            return new RunFigures();
        }

        long? parameters = Whole(root, "parameters"), pruned = Whole(root, "pruned"), prunable = Whole(root, "prunable");
        JsonElement[] speeds = [.. List(root, "speed", "rows").Where(r => Words(r, "model") is not "dense")];
        return new RunFigures
        {
            Quality = [.. List(root, "quality").Where(q => Number(q, "perplexity") is not null).Select(q => new StageFigure(Words(q, "stage") ?? "", Number(q, "perplexity")!.Value))],
            WonBack = Number(root, "wonBack"),
            Parameters = parameters,
            Left = parameters is not null && Has(root, "structure") ? parameters : parameters - (pruned ?? 0),
            Sparsity = prunable > 0 ? (double?)pruned / prunable : null,
            Trained = Whole(root, "trained"),
            Bytes = speeds.Select(s => Whole(s, "bytes")).Append(Has(root, "diskBytes") ? Whole(root.GetProperty("diskBytes"), "after") : null).Where(b => b > 0).Min(),
            TokensPerSecond = speeds.Select(s => Number(s, "tokensPerSecond")).Max(),
            Seconds = Has(root, "seconds") && root.GetProperty("seconds").ValueKind is JsonValueKind.Object ? root.GetProperty("seconds").EnumerateObject().Sum(s => s.Value.GetDouble()) : null,
            PeakMemory = Whole(root, "peakMemory"),
            Layers = [.. List(root, "blocks").SelectMany(b => List(b, "layers")).Select(l => new LayerFigure(Words(l, "name") ?? "", Number(l, "achieved") ?? 0, Number(l, "repairedError") ?? Number(l, "maskedError")))],
            BlockErrors = [.. List(root, "blocks").Select(b => Number(b, "outputError"))],
            Samples = [.. List(root, "samples").Select(s => new SampleFigure(Words(s, "prompt") ?? "", Map(s, "continuations")))],
            Parts = Map(root, "plan"),
        };
    }

    private static bool Has(JsonElement element, string name) => element.ValueKind is JsonValueKind.Object && element.TryGetProperty(name, out JsonElement value) && value.ValueKind is not JsonValueKind.Null;

    private static double? Number(JsonElement element, string name) => Has(element, name) && element.GetProperty(name).ValueKind is JsonValueKind.Number && double.IsFinite(element.GetProperty(name).GetDouble()) ? element.GetProperty(name).GetDouble() : null;

    private static long? Whole(JsonElement element, string name) => Number(element, name) is { } number ? (long)number : null;

    private static string? Words(JsonElement element, string name) => Has(element, name) && element.GetProperty(name).ValueKind is JsonValueKind.String ? element.GetProperty(name).GetString() : null;

    private static IEnumerable<JsonElement> List(JsonElement element, params string[] names)
    {
        foreach (string name in names)
        {
            if (!Has(element, name))
            {
                return [];
            }

            element = element.GetProperty(name);
        }

        return element.ValueKind is JsonValueKind.Array ? element.EnumerateArray() : [];
    }

    private static Dictionary<string, string> Map(JsonElement element, string name) =>
        Has(element, name) && element.GetProperty(name).ValueKind is JsonValueKind.Object
            ? element.GetProperty(name).EnumerateObject().ToDictionary(p => p.Name, p => p.Value.ValueKind is JsonValueKind.String ? p.Value.GetString()! : p.Value.GetRawText())
            : [];

    /// <summary>The figures that a scatter can have on an axis: name, value, whether more is better.</summary>
    public static IReadOnlyList<(string Key, string Name, Func<RunFigures, double?> Of, bool More)> Axes { get; } =
    [
        ("size", "size, MB", f => f.Bytes / 1e6, false),
        ("speed", "tokens per second", f => f.TokensPerSecond, true),
        ("left", "parameters left, million", f => f.Left / 1e6, false),
        ("trained", "trained parameters, thousand", f => f.Trained / 1e3, false),
        ("seconds", "seconds of work", f => f.Seconds, false),
    ];

    /// <summary>A figure as a table shows it.</summary>
    public static string Show(double? value, string format = "0.##") => value is { } known ? known.ToString(format, CultureInfo.InvariantCulture) : "–";
}
