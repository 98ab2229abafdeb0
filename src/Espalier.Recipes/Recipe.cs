using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>How much of a reproduction is run.</summary>
public enum RecipeSize
{
    /// <summary>Seconds: only to see that it runs; proves nothing.</summary>
    Smoke,

    /// <summary>Minutes on two cores: the claim at a scale where it can show.</summary>
    Quick,
}

/// <summary>Names the system whose claim a recipe reproduces.</summary>
/// <param name="slug">The system.</param>
[AttributeUsage(AttributeTargets.Class, Inherited = false)]
public sealed class ReproducesAttribute(string slug) : Attribute
{
    /// <summary>The system.</summary>
    public string Slug { get; } = slug;
}

/// <summary>
/// One reproduction: a paper's central claim, the baselines it is measured against, the data, the measurement and the
/// smallest effect that counts. One file per recipe.
/// </summary>
public abstract class Recipe
{
    /// <summary>The claim in one or two sentences, with its source.</summary>
    public abstract string Claim { get; }

    /// <summary>Model, data, steps: what is measured and on what.</summary>
    public abstract string Setting { get; }

    /// <summary>The arms in the order of the table; the system's own and its baselines.</summary>
    public abstract IReadOnlyList<string> Arms { get; }

    /// <summary>The figure that the comparison is drawn by, as in the measurements ("perplexity").</summary>
    public abstract string Metric { get; }

    /// <summary>Whether a lower figure is better.</summary>
    public virtual bool LowerIsBetter => true;

    /// <summary>The plan of the full reproduction, for a GPU.</summary>
    public abstract string FullPlan { get; }

    /// <summary>Runs all arms with one seed.</summary>
    public abstract IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed);

    /// <summary>Compares what was measured with the smallest effects that the claim needs.</summary>
    public abstract IReadOnlyList<Check> Judge(RecipeResults results);
}

/// <summary>What a recipe is given.</summary>
public sealed class RecipeContext
{
    /// <summary>How much to run.</summary>
    public required RecipeSize Size { get; init; }

    /// <summary>Where to compute.</summary>
    public required Device Device { get; init; }

    /// <summary>A model to use instead of the recipe's own (a folder or hub id); null for the recipe's own.</summary>
    public string? Model { get; init; }

    /// <summary>Where progress is told.</summary>
    public required IProgressSink Progress { get; init; }

    /// <summary>Ends the work early; finished seeds are kept.</summary>
    public CancellationToken Cancellation { get; init; }
}

/// <summary>One figure of one arm.</summary>
/// <param name="Arm">The arm.</param>
/// <param name="Metric">What was measured.</param>
/// <param name="Value">The figure.</param>
public sealed record Measurement(string Arm, string Metric, double Value);

/// <summary>One condition of the verdict.</summary>
/// <param name="Statement">What must hold, in words with the smallest effect.</param>
/// <param name="Measured">What was measured, in words.</param>
/// <param name="Holds">Whether it holds.</param>
public sealed record Check(string Statement, string Measured, bool Holds);
