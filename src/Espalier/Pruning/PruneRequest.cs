using System.Collections;
using System.Globalization;
using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Sparsity.Packed;
using YamlDotNet.Serialization;

namespace Espalier.Pruning;

/// <summary>Where the texts of a run come from; each a path or <c>id:config:split</c>.</summary>
public sealed record DataSection
{
    /// <summary>Text to calibrate on; also what retraining reads where <see cref="Train"/> names nothing else.</summary>
    public string? Calibration { get; init; }

    /// <summary>Text to retrain on; default: the calibration text.</summary>
    public string? Train { get; init; }

    /// <summary>Text to measure perplexity on, before and after; none measures nothing.</summary>
    public string? Evaluation { get; init; }

    /// <summary>Calibration windows; default 64 (the papers use 128; the effect is flat beyond 16).</summary>
    public int Samples { get; init; } = 64;

    /// <summary>Tokens per calibration window; default: the model's context, at most 2,048.</summary>
    public int? Length { get; init; }

    /// <summary>Evaluation windows at most; 0 takes all.</summary>
    public int Windows { get; init; }

    /// <summary>Tokens per evaluation window; default: the model's context, at most 4,096.</summary>
    public int? Context { get; init; }

    /// <summary>Texts to continue before and after, for the report.</summary>
    public IReadOnlyList<string> Prompts { get; init; } = [];
}

/// <summary>The parts of a plan by their words; a part with options is a map with <c>method</c> and the options.</summary>
public sealed record PruneSection
{
    /// <summary>The criterion; default wanda, or magnitude, which looks at no text, where the sparsity is 0 and nothing is ranked.</summary>
    public object? Criterion { get; init; }

    /// <summary>The share of weights to remove; an N:M pattern fixes it.</summary>
    public double? Sparsity { get; init; }

    /// <summary><c>unstructured</c>, <c>structured</c> (with options a map: units, hidden, neurons, heads, key_value_heads, layers, round, uniform), or <c>N:M</c>.</summary>
    public object Pattern { get; init; } = "unstructured";

    /// <summary>Which weights are ranked together: default (the criterion's own), layer, row or global.</summary>
    public Scope Scope { get; init; }

    /// <summary>The allocator; default uniform, and for a structured pattern the criterion's own where it has one (flap).</summary>
    public object? Allocator { get; init; }

    /// <summary>One repair or several (a gradient-free one and a reconstruction); none for none. SparseGPT as criterion brings its own unless told otherwise.</summary>
    public object? Repair { get; init; }

    /// <summary>The criterion in force.</summary>
    internal object Ranking => Criterion ?? (Sparsity == 0 ? "magnitude" : "wanda");
}

/// <summary>A pruning run in words: what YAML and the command line say. Same words, same order, same checks.</summary>
public sealed record PruneRequest
{
    /// <summary>A checkpoint folder or a hub id.</summary>
    public required string Model { get; init; }

    /// <summary>The output folder.</summary>
    public required string Out { get; init; }

    /// <summary>What to call the plan where several are compared; null: the file's name.</summary>
    public string? Name { get; init; }

    /// <summary>The texts.</summary>
    public DataSection Data { get; init; } = new();

    /// <summary>What is pruned and how.</summary>
    public PruneSection Prune { get; init; } = new();

    /// <summary>
    /// Rounding of the kept weights: a map with <c>type</c> (int8 or int4), <c>method</c> and its options; null for none. Without a method it is
    /// sparsegpt where that repairs already (then in the same sweep), else rtn.
    /// </summary>
    public object? Quantise { get; init; }

    /// <summary>What is trained afterwards: a method, or a map with <c>method</c> and its options; null for nothing.</summary>
    public object? Retrain { get; init; }

    /// <summary>The seed of every random draw.</summary>
    public long Seed { get; init; }

    /// <summary>The most resident memory to plan with ("8GB"); null is no limit.</summary>
    public string? Memory { get; init; }

    /// <summary>Where the words come from, so that what is wrong with a part is said with its line.</summary>
    internal PlanFile? Origin { get; init; }

    /// <summary>Reads a request from a plan's words.</summary>
    /// <exception cref="EspalierException">For unknown words, with their line and the nearest known one.</exception>
    public static PruneRequest Read(PlanFile plan) => plan.Bind<PruneRequest>() with { Origin = plan };

    /// <summary>Reads a request from nested maps (YAML, the command line).</summary>
    /// <exception cref="EspalierException">For unknown words, with the nearest known one.</exception>
    public static PruneRequest Parse(IReadOnlyDictionary<string, object?> document) => OptionsBinder.Bind<PruneRequest>(document, "the plan");

    /// <summary>Makes the plan: every part looked up in the catalogue and checked against the others.</summary>
    /// <exception cref="EspalierException">For an unknown part, a wrong option, or parts that do not go together.</exception>
    public PruningPlan ToPlan()
    {
        ICriterion criterion = Part<ICriterion>("prune.criterion", Prune.Ranking);
        Pattern pattern = ReadPattern();
        bool structured = pattern is Pattern.StructuredPattern;
        var (repair, reconstruction) = Placed("prune.repair", () => Repairs(Prune.Repair ?? DefaultRepair(criterion, pattern), criterion));
        var plan = new PruningPlan
        {
            Criterion = criterion,
            Pattern = pattern,
            Allocator = structured || Prune.Allocator is null || IsUnitAllocator(Prune.Allocator) ? new Uniform() : Part<IAllocator>("prune.allocator", Prune.Allocator),
            UnitAllocator = Prune.Allocator is null || (!structured && !IsUnitAllocator(Prune.Allocator)) ? null : Part<IUnitAllocator>("prune.allocator", Prune.Allocator),
            Repair = repair,
            Reconstruction = reconstruction,
            Quantisation = IsNone(Quantise) ? null : Placed("quantise", () => ReadQuantisation(repair)),
            Retraining = IsNone(Retrain) ? null : Part<IRetraining>("retrain", Retrain!),
            Seed = new Seed(Seed),
        };
        plan.Validate();
        return plan;
    }

    /// <summary>The request as YAML that <c>espalier prune</c> takes.</summary>
    public string ToYaml()
    {
        var prune = new Dictionary<string, object?> { ["criterion"] = Prune.Ranking, ["pattern"] = Prune.Pattern };
        Put(prune, "allocator", Prune.Allocator);
        Put(prune, "sparsity", Prune.Sparsity);
        Put(prune, "scope", Prune.Scope is Scope.Default ? null : Prune.Scope.ToString().ToLowerInvariant());
        Put(prune, "repair", Prune.Repair);
        var data = new Dictionary<string, object?>();
        Put(data, "calibration", Data.Calibration);
        Put(data, "train", Data.Train);
        Put(data, "evaluation", Data.Evaluation);
        data["samples"] = Data.Samples;
        Put(data, "length", Data.Length);
        Put(data, "windows", Data.Windows == 0 ? null : Data.Windows);
        Put(data, "context", Data.Context);
        Put(data, "prompts", Data.Prompts.Count == 0 ? null : Data.Prompts);
        var document = new Dictionary<string, object?>();
        Put(document, "name", Name);
        document["model"] = Model;
        document["data"] = data;
        document["prune"] = prune;
        Put(document, "quantise", IsNone(Quantise) ? null : Quantise);
        Put(document, "retrain", IsNone(Retrain) ? null : Retrain);
        document["seed"] = Seed;
        Put(document, "memory", Memory);
        document["out"] = Out;
        return new SerializerBuilder().Build().Serialize(document);

        static void Put(Dictionary<string, object?> map, string name, object? value)
        {
            if (value is not null)
            {
                map[name] = value;
            }
        }
    }

    private Pattern ReadPattern()
    {
        (string word, IReadOnlyDictionary<string, object?> options) = Named("prune.pattern", Prune.Pattern);
        if (options.Count == 0)
        {
            return Pattern.Parse(word, Prune.Sparsity, Prune.Scope);
        }

        EspalierException.Require(word == "structured", $"The pattern '{word}' takes no options ({string.Join(", ", options.Keys)} were given); only structured does.");
        Pattern.RequireNoScope(Prune.Scope);
        return Pattern.Structured(Prune.Sparsity, Placed("prune.pattern", () => OptionsBinder.Bind<Pattern.StructuredPattern>(options, "structured")));
    }

    private Quantisation ReadQuantisation(IRepair? repair)
    {
        Dictionary<string, object?> options = OptionsOf(Quantise!, out string? method);
        EspalierException.Require(options.Remove("type", out object? type) && type is not null, "'quantise' names no type; write for example quantise: { type: int4 }, or int8.");
        IWeightQuantiser? own = repair as IWeightQuantiser;
        method ??= own is null ? "rtn" : PruningPlan.NameOf(own);
        return new Quantisation
        {
            Type = PackedTypes.Parse(Convert.ToString(type, CultureInfo.InvariantCulture)!.Trim().ToLowerInvariant()),
            Method = own is not null && PruningPlan.NameOf(own) == method && options.Count == 0 ? own : MethodCatalogue.Default.Create<IWeightQuantiser>(method, options),
        };
    }

    // SparseGPT's update belongs to its choice of weights, FLAP's bias to its choice of units.
    private static string? DefaultRepair(ICriterion criterion, Pattern pattern) =>
        criterion is IJointPruner || (pattern is Pattern.StructuredPattern { Cuts: var cuts } && criterion is IUnitBiasRepair && (cuts & (Units.Heads | Units.Neurons)) != 0)
            ? PruningPlan.NameOf(criterion) : null;

    // Allocators of units alone: named with another pattern the plan says what they go with.
    private bool IsUnitAllocator(object written)
    {
        string slug = Placed("prune.allocator", () => Named("prune.allocator", written)).Slug;
        return MethodCatalogue.Default.Supplying<IUnitAllocator>().Any(e => e.Slug == slug) && MethodCatalogue.Default.Supplying<IAllocator>().All(e => e.Slug != slug);
    }

    private static (IRepair? Repair, IBlockRepair? Reconstruction) Repairs(object? written, ICriterion criterion)
    {
        IRepair? repair = null;
        IBlockRepair? reconstruction = null;
        foreach (object item in Items(written))
        {
            (string slug, IReadOnlyDictionary<string, object?> options) = Named("prune.repair", item);
            if (MethodCatalogue.Default.Supplying<IBlockRepair>().Any(e => e.Slug == slug))
            {
                EspalierException.Require(reconstruction is null, "A plan has one reconstruction; two were named.");
                reconstruction = MethodCatalogue.Default.Create<IBlockRepair>(slug, options);
            }
            else
            {
                // SparseGPT as both: one object, so that one sweep serves both.
                IRepair named = criterion is IRepair own && PruningPlan.NameOf(criterion) == slug && options.Count == 0
                    ? own
                    : MethodCatalogue.Default.Create<IRepair>(slug, options, also: typeof(IBlockRepair));
                EspalierException.Require(repair is null, "A plan has one gradient-free repair; two were named.");
                repair = named;
            }
        }

        return (repair, reconstruction);
    }

    private static IEnumerable<object> Items(object? written) => IsNone(written) ? []
        : written is IEnumerable list and not string and not IDictionary ? list.Cast<object>()
        : written is string text ? text.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries)
        : [written!];

    private static bool IsNone(object? written) => written is null or "" or "none";

    private T Part<T>(string path, object written)
        where T : class =>
        Placed(path, () =>
        {
            (string slug, IReadOnlyDictionary<string, object?> options) = Named(path, written);
            return MethodCatalogue.Default.Create<T>(slug, options);
        });

    // The line of the option that the sentence names, else of the part.
    private T Placed<T>(string path, Func<T> make)
    {
        try
        {
            return make();
        }
        catch (EspalierException fault) when (Origin?.LineOf(path) is not null)
        {
            string? option = (Origin.At(path) as IReadOnlyDictionary<string, object?>)?.Keys.FirstOrDefault(o => fault.Message.Contains($"'{o}'", StringComparison.Ordinal) || fault.Message.Contains($".{o}'", StringComparison.Ordinal));
            throw new EspalierException($"{Origin.Place(option is null ? path : $"{path}.{option}")}: {fault.Message}", fault);
        }
    }

    // "wanda", or { method: wanda, use_variant: true }
    private static (string Slug, IReadOnlyDictionary<string, object?> Options) Named(string path, object written)
    {
        Dictionary<string, object?> options = OptionsOf(written, out string? method);
        EspalierException.Require(method is not null, $"'{path}' has options ({string.Join(", ", options.Keys)}) but names no method; add one, for example {{ method: perp, steps: 200 }}.");
        return (method!, options);
    }

    private static Dictionary<string, object?> OptionsOf(object written, out string? method)
    {
        var options = new Dictionary<string, object?>(StringComparer.OrdinalIgnoreCase);
        foreach (DictionaryEntry entry in written as IDictionary ?? new Dictionary<string, object?> { ["method"] = Convert.ToString(written, CultureInfo.InvariantCulture) })
        {
            options[Convert.ToString(entry.Key, CultureInfo.InvariantCulture)!] = entry.Value;
        }

        method = options.Remove("method", out object? named) ? (named as string)?.Trim().ToLowerInvariant() : null;
        return options;
    }
}
