using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

public sealed partial record SvFit
{
    private const string HashNote = "svfit.weight.";

    /// <inheritdoc/>
    protected override void CheckWeight(NetWeight weight) => EspalierException.Require(Rank is not { } rank || rank <= Math.Min(weight.Rows, weight.Columns),
        $"svfit.rank is {Rank}, but {weight.Name} has only {Math.Min(weight.Rows, weight.Columns)} singular values; take at most that many, or give a fraction.");

    /// <inheritdoc/>
    protected internal override IReadOnlyList<ILinearAdapter> Make(AdaptationContext context, IReadOnlyList<NetWeight> targets)
    {
        var adapters = new List<ILinearAdapter>();
        foreach (NetWeight target in targets)
        {
            using var scope = NewDisposeScope();
            ThinSvd svd = ThinSvd.Of(target.Matrix(), target.Name);
            adapters.Add(SvFitAdapter.Of(svd, RankOf(svd, target.Name, context.Progress), Relative));
        }

        return adapters;
    }

    /// <inheritdoc/>
    /// <remarks>The decomposition is done again, so the weight must be the one that it was made from; factors come from the file where they are not unique.</remarks>
    protected internal override ILinearAdapter Restore(AdaptationContext context, NetWeight target, IReadOnlyDictionary<string, Tensor> stored, IReadOnlyDictionary<string, string> notes)
    {
        EspalierException.Require(!notes.TryGetValue(HashNote + target.Module, out string? hash) || hash == HashOf(target),
            $"The saved adapter of {target.Module} was made from another weight, whose singular vectors are not those of this one; use the checkpoint that it was trained on.");
        if (!stored.TryGetValue(SvFitAdapter.UName, out Tensor? u))
        {
            return base.Restore(context, target, stored, notes);
        }

        EspalierException.Require(stored.ContainsKey(SvFitAdapter.VName) && stored.ContainsKey(SvFitAdapter.StartName) && stored.ContainsKey(SvFitAdapter.SName) && u.shape[0] == target.Rows,
            $"The saved adapter of {target.Module} is incomplete or belongs to a weight of another shape.");
        Tensor start = stored[SvFitAdapter.StartName];
        var adapter = new SvFitAdapter(u, start, stored[SvFitAdapter.VName], start, Relative);
        using var frozen = no_grad();
        adapter.S.copy_(stored[SvFitAdapter.SName]);
        return adapter;
    }

    /// <inheritdoc/>
    /// <remarks>Weight decay would pull s to 0 and destroy the base weight, so there is none on it whatever the run says.</remarks>
    protected internal override ParameterGroup Group(string name) => name.EndsWith("." + SvFitAdapter.SName, StringComparison.Ordinal) ? new ParameterGroup(DecayMultiplier: 0) : new ParameterGroup();

    /// <inheritdoc/>
    protected internal override IReadOnlyDictionary<string, string> Notes(WeightAdaptationRun run) => run.Targets.ToDictionary(t => HashNote + t.Module, HashOf);

    private static string HashOf(NetWeight weight)
    {
        using var scope = NewDisposeScope();
        using Tensor matrix = weight.Matrix();
        return TensorDigest.Of([matrix]);
    }
}
