using Espalier.Methods.Retraining;
using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// What GaLore and GradNormLoRP have in common: the maps of a net (and the factors of its adapters) are trained with a state that lives in a
/// projection of their gradient; embeddings, head, norms and biases get plain AdamW.
/// </summary>
public abstract record LowRankOptimizer : IOptimizerMethod
{
    /// <summary>The word for messages.</summary>
    private protected abstract string Slug { get; }

    /// <summary>r, the rank of the projection; a larger one than a matrix has counts as its own and saves nothing. Default 128.</summary>
    public int Rank { get; init => field = OptionCheck.Checked(value, value >= LeastRank, "a low-rank optimizer", "rank", "1 or more, or 0 for gradnormlorp without a projection"); } = 128;

    /// <summary>T, the steps between two looks for a basis; small gaps make the running means stale. Default 200.</summary>
    public int UpdateProjGap { get; init => field = OptionCheck.Checked(value, value >= 1, "a low-rank optimizer", "gap between two bases", "at least 1"); } = 200;

    /// <summary>α, the learning rate of projected weights relative to the others'. Default 0.25, for training from scratch; fine-tuning takes 1 to 4.</summary>
    public double Scale { get; init => field = OptionCheck.Checked(value, value > 0 && double.IsFinite(value), "a low-rank optimizer", "scale", "a positive number"); } = 0.25;

    /// <summary>The side of the projection. Default std: the smaller basis.</summary>
    public ProjectionSide ProjType { get; init; } = ProjectionSide.Std;

    /// <summary>ε of the projected weights. Default 1e-6; the others take the training's.</summary>
    public double Epsilon { get; init => field = OptionCheck.Checked(value, value > 0 && double.IsFinite(value), "a low-rank optimizer", "epsilon", "a positive number, for example 1e-6"); } = 1e-6;

    /// <summary>Words of which a projected parameter's name has one; null (default) takes all maps of the blocks of a language model, all maps of another net, and the factors of adapters.</summary>
    public IReadOnlyList<string>? Layers { get; init; }

    /// <summary>The least rank: 0 where weights may be left unprojected.</summary>
    private protected virtual int LeastRank => 1;

    /// <inheritdoc/>
    public void Check(IReadOnlyList<NetWeight> weights, TrainingOptions options)
    {
        EspalierException.Require(options.Validate().Momentum == 0 && !options.Nesterov, $"{Slug} steps as Adam does and has no momentum of its own; set beta1.");
        EspalierException.Require(Layers is null || weights.Count == 0 || weights.Any(w => Named(w.Name)), $"No weight's name has one of the words {string.Join(", ", Layers ?? [])}, so {Slug} would project nothing; name other layers.");
    }

    /// <inheritdoc/>
    public IOptimizer Make(OptimizerContext context)
    {
        Check(context.Weights, context.Options);
        var known = context.Weights.Select(w => w.Name).ToHashSet(StringComparer.Ordinal);
        bool Projected(OptimizedParameter p) => p.Value.dim() >= 2
            && (Layers is not null ? Named(p.Name) : known.Count == 0 || known.Contains(p.Name) || p.Name.Contains("lora_", StringComparison.Ordinal));
        OptimizedParameter[] matrices = [.. context.Parameters.Where(Projected)], others = [.. context.Parameters.Except(matrices)];
        EspalierException.Require(matrices.Length > 0, $"Nothing that is trained is a matrix of the blocks, so {Slug} has nothing to project; use adamw.");
        Warn(matrices, context.Progress);
        TrainingOptions o = context.Options;
        var how = new ProjectedStep(Rank, UpdateProjGap, Scale, ProjType, o.Beta1, o.Beta2, Epsilon, o.WeightDecay, CorrectBias: true, o.StateStorage);
        var parts = new List<(string, IOptimizer)> { (ProjectedPart, Matrices(matrices, how, context.Weights.Where(w => w.InputsFirst).Select(w => w.Name).ToHashSet(StringComparer.Ordinal))) };
        if (others.Length > 0)
        {
            parts.Add((PlainPart, new AdamW(others, o.Beta1, o.Beta2, o.Epsilon, o.WeightDecay, o.StateStorage)));
        }

        return new OptimizerParts(parts);
    }

    /// <summary>The words of the two parts in <see cref="OptimizerParts"/>.</summary>
    internal const string ProjectedPart = "projected", PlainPart = "plain";

    /// <summary>The optimiser of the projected weights.</summary>
    private protected abstract IOptimizer Matrices(IReadOnlyList<OptimizedParameter> matrices, ProjectedStep how, IReadOnlySet<string> inputsFirst);

    private bool Named(string name) => Layers!.Any(word => name.Contains(word, StringComparison.OrdinalIgnoreCase));

    private void Warn(OptimizedParameter[] matrices, IProgressSink progress)
    {
        OptimizedParameter[] small = Rank == 0 ? [] : [.. matrices.Where(p => Rank >= Math.Min(p.Value.shape[0], p.Value.numel() / p.Value.shape[0]))];
        if (small.Length > 0)
        {
            progress.Warn($"A projection of rank {Rank} saves nothing for {small.Length} of {matrices.Length} matrices, which have no larger rank themselves (first {small[0].Name} [{string.Join(", ", small[0].Value.shape)}]); a smaller rank would.");
        }
    }
}
