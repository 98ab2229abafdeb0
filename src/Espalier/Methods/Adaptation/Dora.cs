using Espalier.Catalogue;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Training;
using TorchSharp.Modules;

namespace Espalier.Methods.Adaptation;

/// <summary>DoRA (Liu et al., ICML 2024): LoRA on the direction of each row of a weight, with its magnitude trained beside. GradNormLoRP fine-tunes its factors.</summary>
/// <remarks>Files are those of Python PEFT (a LoRA with use_dora); those of espalier's first layout are read as well.</remarks>
[Method("dora", "DoRA: Weight-Decomposed Low-Rank Adaptation", Family = "Adaptation", Source = "arXiv 2402.09353, ICML 2024",
    Summary = "LoRA with a trained magnitude for each output: nearer to full fine-tuning than LoRA at the same rank; reads and writes Python PEFT's files.",
    Fits = "adaptation of language models and vision nets; any optimiser, gradnormlorp among them; merges exactly, on pruned weights masked")]
public sealed record Dora : WeightAdaptation, IPeftMethod
{
    /// <summary>r. Default 8.</summary>
    public int Rank { get; init => field = OptionCheck.Checked(value, value >= 1, "dora", "rank", "at least 1"); } = 8;

    /// <summary>alpha; what is added is multiplied by alpha/r. Default 16.</summary>
    public double Alpha { get; init => field = OptionCheck.Checked(value, value > 0 && double.IsFinite(value), "dora", "alpha", "a positive number, usually once or twice the rank"); } = 16;

    /// <summary>Multiplies by alpha/√r in place of alpha/r (Kalajdzievski 2023). Default false.</summary>
    public bool RankStabilised { get; init; }

    /// <inheritdoc/>
    public override IAdaptationRun Begin(AdaptationContext context) =>
        context.Saved is null || File.Exists(Path.Combine(context.Saved, AdapterFile.FileName)) ? base.Begin(context) : PeftFolder.Open(context, this);

    /// <inheritdoc/>
    protected internal override IReadOnlyList<ILinearAdapter> Make(AdaptationContext context, IReadOnlyList<NetWeight> targets)
    {
        using var scope = TorchSharp.torch.NewDisposeScope();
        return [.. targets.Select(t => DoraAdapter.Start(t.Matrix(), Rank, ((IPeftMethod)this).Factor(Rank, Alpha), context.Seed, t.Name))];
    }

    /// <inheritdoc/>
    protected override void CheckWeight(NetWeight weight) => LowRankAdapter.CheckRank(Rank, weight.Rows, weight.Columns, weight.Name);

    /// <inheritdoc/>
    protected override WeightAdaptationRun NewRun(AdaptationContext context, IReadOnlyList<NetWeight> targets, IReadOnlyList<ILinearAdapter> adapters, IReadOnlyList<(string Name, Parameter Value)> whole) =>
        new DoraRun(this, context, targets, adapters, whole);
}
