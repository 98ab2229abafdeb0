using System.Reflection;
using Espalier.Catalogue;
using Espalier.Pruning.Measuring;
using Espalier.Runtime;
using Espalier.Sparsity;

namespace Espalier.Pruning;

/// <summary>
/// What is done to a model: criterion × pattern × allocator × repair × retraining. Any part goes with any other where
/// the mathematics allows it; where it does not, construction says so.
/// </summary>
public sealed record PruningPlan
{
    /// <summary>The importance of every weight.</summary>
    public required ICriterion Criterion { get; init; }

    /// <summary>The shapes of zeros that are allowed, and how many.</summary>
    public required Pattern Pattern { get; init; }

    /// <summary>How much of the budget each layer gives; default: each the same.</summary>
    public IAllocator Allocator { get; init; } = new Uniform();

    /// <summary>How many units of each group a structured pattern leaves; null takes the criterion's own allocator (flap), else <see cref="Uniform"/>.</summary>
    public IUnitAllocator? UnitAllocator { get; init; }

    /// <summary>A gradient-free change of the kept weights, layer by layer; null does none.</summary>
    public IRepair? Repair { get; init; }

    /// <summary>A layer-wise reconstruction by gradients, block by block; null does none.</summary>
    public IBlockRepair? Reconstruction { get; init; }

    /// <summary>Rounding of the kept weights to 8 or 4 bits, with pruning or without (a sparsity of 0), and once more after a training; null rounds nothing.</summary>
    public Quantisation? Quantisation { get; init; }

    /// <summary>What is trained afterwards, on the model's own loss; null does none.</summary>
    public IRetraining? Retraining { get; init; }

    /// <summary>The seed of every random draw.</summary>
    public Seed Seed { get; init; } = new(0);

    /// <summary>Whether criterion and repair are one sweep of one system (SparseGPT).</summary>
    public bool IsJoint => Criterion is IJointPruner && Repair?.GetType() == Criterion.GetType();

    /// <summary>Whether nothing is pruned.</summary>
    internal bool IsDense => Pattern is Pattern.UnstructuredPattern { Sparsity: 0 };

    /// <summary>Whether weights are changed beyond being masked.</summary>
    internal bool ChangesWeights => Repair is not null || Reconstruction is not null || Quantisation is not null;

    /// <summary>The system that repairs and rounds in one sweep; null where these are two steps, or only one is asked for.</summary>
    internal IJointQuantiser? RoundingRepair => Quantisation?.Method is IJointQuantiser && Repair is IJointQuantiser repair && Quantisation.Method.GetType() == repair.GetType() ? repair : null;

    /// <summary>The scope in force: the pattern's, or the criterion's own where the pattern names none.</summary>
    public Scope Scope => Allocator is GlobalRanking ? Scope.Global
        : Pattern is Pattern.UnstructuredPattern { Scope: not Scope.Default and var scope } ? scope : Criterion.DefaultScope;

    /// <summary>Whether whole units are cut out.</summary>
    public bool IsStructured => Pattern is Pattern.StructuredPattern;

    /// <summary>Whether the plan only retrains: no weight is removed or changed before that.</summary>
    public bool OnlyRetrains => IsDense && !ChangesWeights && Retraining is not null;

    /// <summary>The allocator of units in force.</summary>
    internal IUnitAllocator EffectiveUnitAllocator => UnitAllocator
        ?? (Criterion is IUnitAllocator own && Pattern is Pattern.StructuredPattern { HasSizes: false } pattern && !(own.IsUneven && pattern.Uniform) ? own : new Uniform());

    /// <summary>What the one calibration pass has to collect.</summary>
    public CalibrationNeeds Needs => Criterion.Needs | (Repair?.Needs ?? CalibrationNeeds.None) | (Quantisation?.Method.Needs ?? CalibrationNeeds.None) | AlsoCollect;

    /// <summary>What it collects beyond that, for the report: with the Hessian, every layer's output error is known. Default: nothing.</summary>
    public CalibrationNeeds AlsoCollect { get; init; }

    /// <summary>Whether hidden states have to be carried through the blocks.</summary>
    public bool NeedsActivations => Reconstruction is not null
        || (IsStructured ? Repair is not null || Criterion is IUnitCriterion { ReadsActivations: true } : Needs is not CalibrationNeeds.None);

    /// <summary>The parts that look at the dense model before anything is pruned.</summary>
    public IEnumerable<IMeasuredPart> Measured => new object?[] { Criterion, Allocator }.OfType<IMeasuredPart>();

    /// <summary>Whether calibration text is needed at all.</summary>
    public bool NeedsCalibration => NeedsActivations || Measured.Any();

    /// <summary>Checks that the parts go together.</summary>
    /// <exception cref="EspalierException">With the pair that does not, and why.</exception>
    public void Validate()
    {
        if (Pattern is Pattern.StructuredPattern structured)
        {
            EspalierException.Require(Quantisation is null,
                "With the pattern structured nothing is quantised; cut the model first, then quantise what came out with a plan of its own (sparsity: 0).");
            Structured.StructuredRules.Check(this, structured);
            return;
        }

        EspalierException.Require(RoundingRepair is not { } joint || Describe(joint) == Describe(Quantisation!.Method),
            $"{(Repair is null ? "" : NameOf(Repair))} repairs and rounds in one sweep, so it cannot have other options as quantiser than as repair; give both the same.");
        EspalierException.Require(UnitAllocator is null, $"The allocator {(UnitAllocator is null ? "" : NameOf(UnitAllocator))} shares out whole units; it goes with the pattern structured.");
        EspalierException.Require(Criterion is not IUnitCriterion { UnitsOnly: true },
            $"{NameOf(Criterion)} ranks whole units, not single weights; use the pattern structured.");
        EspalierException.Require(!(IsJoint && Pattern is Pattern.UnstructuredPattern { Scope: not Scope.Default }),
            $"{NameOf(Criterion)} chooses its weights inside blocks of columns while it updates the others, so the scope {Scope.ToString().ToLowerInvariant()} is not possible; leave the scope out, or use another repair.");
        EspalierException.Require(Scope is not Scope.Global || Allocator is Uniform or GlobalRanking,
            "With the scope global the ranking itself decides how much each layer gives; leave the allocator out.");
        EspalierException.Require(Allocator is not GlobalRanking || Pattern is not Pattern.UnstructuredPattern { Scope: Scope.Row or Scope.Layer },
            "The allocator global ranks all weights of the model together, so another scope is not possible; leave one of them out.");
        EspalierException.Require(Pattern is not Pattern.SemiStructuredPattern || Allocator is Uniform,
            $"The pattern {Pattern} fixes how many weights every layer loses, so the allocator {NameOf(Allocator)} has nothing to decide; leave it out, or use an unstructured pattern.");
        if (Pattern is Pattern.UnstructuredPattern)
        {
            Allocator.Check(Pattern.Sparsity);
        }

        EspalierException.Require(!IsJoint || Allocator is not GlobalRanking,
            $"{NameOf(Criterion)} chooses its weights inside blocks of columns while it updates the others, so a global ranking is not possible; use another allocator, or another repair.");
    }

    /// <summary>The word by which a part of a plan is known ("wanda").</summary>
    public static string NameOf(object part) =>
        part.GetType().GetCustomAttribute<MethodAttribute>()?.Slug ?? part.GetType().Name.ToLowerInvariant();

    /// <summary>The plan as ordered pairs of words, for previews, journals and reports.</summary>
    public IReadOnlyList<(string Part, string Value)> Describe() =>
    [
        ("criterion", Describe(Criterion)),
        ("pattern", Pattern.ToString()),
        ("sparsity", Pattern is Pattern.StructuredPattern { HasSizes: true } ? "by target sizes" : Pattern.Sparsity.ToString("0.######", System.Globalization.CultureInfo.InvariantCulture)),
        ("scope", Pattern is Pattern.UnstructuredPattern ? Scope.ToString().ToLowerInvariant() : IsStructured ? "unit" : "group"),
        ("allocator", IsStructured ? Describe(EffectiveUnitAllocator) : Describe(Allocator)),
        ("repair", Describe(Repair)),
        ("reconstruction", Describe(Reconstruction)),
        ("quantisation", Quantisation is { } q ? $"{Sparsity.Packed.PackedTypes.WordOf(q.Type)} by {Describe(q.Method)}" : "none"),
        ("retraining", Describe(Retraining)),
        ("seed", Seed.Value.ToString(System.Globalization.CultureInfo.InvariantCulture)),
    ];

    private static string Describe(object? part)
    {
        if (part is null)
        {
            return "none";
        }

        var options = part.GetType().GetProperties(BindingFlags.Public | BindingFlags.Instance)
            .Where(p => p.CanRead && p.SetMethod is not null && p.GetIndexParameters().Length == 0)
            .OrderBy(p => p.Name, StringComparer.Ordinal)
            .Select(p => (p.Name, Value: Word(p.GetValue(part))))
            .Where(p => p.Value.Length > 0)
            .Select(p => $"{OptionsBinder.Snake(p.Name)}={p.Value}")
            .ToList();
        return options.Count == 0 ? NameOf(part) : $"{NameOf(part)}({string.Join(", ", options)})";
    }

    // As a plan file spells it; nothing for what is not set.
    private static string Word(object? value) => value switch
    {
        bool flag => flag ? "true" : "false",
        Enum word => string.Join('+', word.ToString().Split(", ").Select(OptionsBinder.Snake)),
        System.Collections.IEnumerable list and not string => string.Join(' ', list.Cast<object?>().Select(Word)),
        _ => System.Convert.ToString(value, System.Globalization.CultureInfo.InvariantCulture) ?? "",
    };
}
