using System.Collections;
using System.Globalization;
using Espalier.Pruning;
using Espalier.Runtime;

namespace Espalier.Methods.Pruning.Searching;

/// <summary>What may be chosen, and how near to which number of parameters.</summary>
public sealed record SearchSection
{
    /// <summary>The parameters wanted, of the whole model: "1.5M", "800K", "1500000".</summary>
    public required string Parameters { get; init; }

    /// <summary>How far a candidate may be from that, as a share of it; the paper's 0.05.</summary>
    public double Tolerance
    {
        get;
        init
        {
            EspalierException.Require(value is >= 0 and < 1, FormattableString.Invariant($"A tolerance of {value} is not possible; it is a share of the parameters wanted, from 0 up to but not including 1."));
            field = value;
        }
    } = 0.05;

    /// <summary>Numbers of layers; null: all, three quarters and half of the model's.</summary>
    public IReadOnlyList<int>? Layers { get; init; }

    /// <summary>Numbers of query heads, in whole key-value groups; null: all, three quarters and half of the model's groups.</summary>
    public IReadOnlyList<int>? Heads { get; init; }

    /// <summary>Numbers of key-value heads, in place of <see cref="Heads"/>.</summary>
    public IReadOnlyList<int>? KeyValueHeads { get; init; }

    /// <summary>Widths of the feed-forward part; null: from all down to a quarter of the model's in eighths, rounded as a plan's <c>round</c> does.</summary>
    public IReadOnlyList<int>? Neurons { get; init; }

    /// <summary>Widths of the model; null: from all down to a quarter of the model's in eighths, rounded as a plan's <c>round</c> does.</summary>
    public IReadOnlyList<int>? Hidden { get; init; }

    /// <summary>The most candidates to try, spread evenly over the list of those that fit. Default 16; the paper has 15 to 18.</summary>
    public int Candidates
    {
        get;
        init => field = Positive(value, "candidates");
    } = 16;

    /// <summary>Retraining steps of every candidate, before one is chosen. Default 100; the paper takes 400 and finds rankings to change until about 300.</summary>
    public int LightSteps
    {
        get;
        init => field = Positive(value, "light_steps");
    } = 100;

    private static int Positive(int value, string option)
    {
        EspalierException.Require(value >= 1, $"The option '{option}' of a search is {value}; it must be 1 or more.");
        return value;
    }
}

/// <summary>How the units are chosen that every candidate loses.</summary>
public sealed record SearchedPruning
{
    /// <summary>A criterion of units, by its word or as a map with <c>method</c> and options. Default minitron.</summary>
    public object Criterion { get; init; } = "minitron";
}

/// <summary>A search in words: what YAML and the command line say.</summary>
public sealed record SearchRequest
{
    /// <summary>A checkpoint folder or a hub id.</summary>
    public required string Model { get; init; }

    /// <summary>Where the chosen model goes; runs of candidates go into its folder <c>search</c>.</summary>
    public required string Out { get; init; }

    /// <summary>What may be chosen.</summary>
    public required SearchSection Search { get; init; }

    /// <summary>The texts; one to evaluate on is needed. Prompts are not used.</summary>
    public DataSection Data { get; init; } = new();

    /// <summary>How units are ranked.</summary>
    public SearchedPruning Prune { get; init; } = new();

    /// <summary>What trains the candidates (for <see cref="SearchSection.LightSteps"/> steps) and then the chosen one (for its own). Default: distillation from the original model, <c>{ method: minitron }</c>.</summary>
    public object Retrain { get; init; } = "minitron";

    /// <summary>The seed of every random draw.</summary>
    public long Seed { get; init; }

    /// <summary>The most resident memory to plan with ("8GB"); null is no limit.</summary>
    public string? Memory { get; init; }

    /// <summary>The plan of one candidate.</summary>
    /// <param name="name">What it is called.</param>
    /// <param name="sizes">The sizes that it ends with, by their words in a structured pattern.</param>
    /// <param name="light">Light retraining; else the full one.</param>
    internal PruneRequest PlanOf(string name, IReadOnlyDictionary<string, int> sizes, bool light)
    {
        var pattern = new Dictionary<string, object?> { ["method"] = "structured" };
        foreach ((string word, int size) in sizes)
        {
            pattern[word] = size;
        }

        return new PruneRequest
        {
            // A bias in place of what went would be parameters that nobody asked for; the retraining does that work.
            Name = name, Model = Model, Out = Out, Data = Data, Seed = Seed, Memory = Memory,
            Prune = new PruneSection { Criterion = Prune.Criterion, Pattern = pattern, Repair = "none" },
            Retrain = light ? LightRetraining() : Retrain,
        };
    }

    private Dictionary<string, object?> LightRetraining()
    {
        var options = new Dictionary<string, object?>();
        foreach (DictionaryEntry entry in Retrain as IDictionary ?? new Dictionary<string, object?> { ["method"] = Retrain })
        {
            options[Convert.ToString(entry.Key, CultureInfo.InvariantCulture)!] = entry.Value;
        }

        options.Keys.Where(k => k.Equals("steps", StringComparison.OrdinalIgnoreCase)).ToList().ForEach(k => options.Remove(k));
        options["steps"] = Search.LightSteps;
        return options;
    }
}
