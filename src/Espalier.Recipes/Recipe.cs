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
/// One reproduction: a paper's central claim, the experiments that show it, the baselines it is measured against and the
/// smallest effects that count. One file per recipe.
/// </summary>
public abstract class Recipe
{
    /// <summary>The claim in one or two sentences, with its source.</summary>
    public abstract string Claim { get; }

    /// <summary>What is measured, in the order of the page.</summary>
    public abstract IReadOnlyList<Experiment> Experiments { get; }

    /// <summary>The plan of the full reproduction, for a GPU.</summary>
    public abstract string FullPlan { get; }

    /// <summary>Whether anything in it is random. What is not is run once, and its replicates are others than seeds.</summary>
    public virtual bool DependsOnSeed => true;

    /// <summary>Runs all experiments with one seed.</summary>
    /// <returns>The figures of the arms that the experiments name; a cell may be left out where it has no meaning.</returns>
    public abstract IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed);

    /// <summary>Compares what was measured with the smallest effects that the claim needs.</summary>
    /// <returns>The conditions; the claim is shown where all of them hold.</returns>
    public abstract IReadOnlyList<Check> Judge(RecipeResults results);
}

/// <summary>One experiment: arms that are compared by one figure, at one setting or several.</summary>
public sealed record Experiment
{
    /// <summary>The setting of an experiment that has only one.</summary>
    public const string Only = "";

    /// <summary>Its heading, unique within the recipe ("language model").</summary>
    public required string Name { get; init; }

    /// <summary>Model, data, steps: what is measured and on what, in whole sentences.</summary>
    public required string About { get; init; }

    /// <summary>The arms in the order of the table: the system's own and its baselines.</summary>
    public required IReadOnlyList<string> Arms { get; init; }

    /// <summary>What all arms are measured at ("70 %", "2:4"), in order; each gets a chart of its own.</summary>
    public IReadOnlyList<string> Settings { get; init; } = [Only];

    /// <summary>The figure that the comparison is drawn by, as in the measurements ("perplexity").</summary>
    public required string Metric { get; init; }

    /// <summary>Whether a lower figure is better; null where neither is and the figure only explains.</summary>
    public bool? LowerIsBetter { get; init; } = true;
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
/// <param name="Experiment">The experiment's name.</param>
/// <param name="Setting">The setting; <see cref="Recipes.Experiment.Only"/> where there is only one.</param>
/// <param name="Arm">The arm.</param>
/// <param name="Metric">What was measured.</param>
/// <param name="Value">The figure.</param>
public sealed record Measurement(string Experiment, string Setting, string Arm, string Metric, double Value);
