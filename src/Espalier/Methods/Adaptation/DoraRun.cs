using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;

namespace Espalier.Methods.Adaptation;

/// <summary>A run of DoRA: writes PEFT's files.</summary>
internal sealed class DoraRun(Dora method, AdaptationContext context, IReadOnlyList<NetWeight> targets, IReadOnlyList<ILinearAdapter> adapters, IReadOnlyList<(string Name, Parameter Value)> whole)
    : WeightAdaptationRun(method, context, targets, adapters, whole)
{
    /// <summary>A pruned weight whose adapter was trained without its mask; null for none.</summary>
    public string? Unmasked { get; init; }

    public override void Save(string folder) => PeftFolder.Save(folder, this, method);

    public override void Merge()
    {
        EspalierException.Require(Unmasked is null, $"The DoRA of {Unmasked} was trained without the mask of this net, so folding it in would fill pruned weights; leave it unmerged, or merge into the dense model.");
        base.Merge();
    }
}
