using Espalier.Catalogue;
using Espalier.Models;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>Full fine-tuning as an adaptation: every parameter is trained (pruned weights stay zero). The other baseline of adapters, dear in memory and quick to forget.</summary>
[Method("full", "Full fine-tuning", Family = "Adaptation", Source = "the usual practice",
    Summary = "Trains every parameter: the baseline that adapters are measured against.",
    Fits = "adaptation of language models and vision nets; any optimiser; pruned weights stay zero")]
public sealed record FullTuning : IAdaptation
{
    /// <inheritdoc/>
    public void Check(IReadOnlyList<NetWeight> weights, TrainingOptions options)
    {
        string? packed = weights.FirstOrDefault(w => w.IsCompact)?.Name;
        Runtime.EspalierException.Require(packed is null, $"{packed} is stored in a packed form and cannot be trained itself; use the model that it was packed from.");
    }

    /// <inheritdoc/>
    public IAdaptationRun Begin(AdaptationContext context)
    {
        Check(context.Weights, context.Options);
        return new Inner().Begin(context, this);
    }

    /// <summary>What has no adapters but trains parameters whole: the run of <see cref="WeightAdaptation"/> does the rest.</summary>
    private sealed record Inner : WeightAdaptation
    {
        public IAdaptationRun Begin(AdaptationContext context, FullTuning method) => context.Saved is null ? new Whole(this, context, method) : base.Begin(context);

        protected internal override IReadOnlyList<ILinearAdapter> Make(AdaptationContext context, IReadOnlyList<NetWeight> targets) => [];
    }

    private sealed class Whole(Inner inner, AdaptationContext context, FullTuning method) : WeightAdaptationRun(inner, context, [], [], context.Parameters), ITrainingHook
    {
        string ITrainingHook.Name => "full";

        public override string Description => "full";

        public override void Save(string folder)
        {
            using var _ = no_grad();
            AdapterFile.Save(folder, method, [.. Whole.Select(w => ($"net.{w.Name}", (Tensor)w.Value))]);
        }
    }
}
