using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

public sealed partial record Sst
{
    /// <inheritdoc/>
    public override IAdaptationRun Begin(AdaptationContext context)
    {
        if (context.Saved is not null || !Rest)
        {
            return base.Begin(context);
        }

        var targets = NetSelection.Weights(context.Weights, Targets).Select(t => t.Name).ToHashSet(StringComparer.Ordinal);
        return (this with { Train = [.. context.Parameters.Select(p => p.Name).Where(n => !targets.Contains(n))], Rest = false }).Begin(context);
    }

    /// <inheritdoc/>
    protected internal override IReadOnlyList<ILinearAdapter> Make(AdaptationContext context, IReadOnlyList<NetWeight> targets)
    {
        var adapters = new List<ILinearAdapter>();
        foreach (NetWeight target in targets)
        {
            using var scope = NewDisposeScope();
            ThinSvd svd = ThinSvd.Of(target.Matrix(), target.Name);
            adapters.Add(SpectralAdapter.Of(svd, RankOf(svd.Count), Enhanced));
        }

        return adapters;
    }

    /// <inheritdoc/>
    protected internal override ILinearAdapter Restore(AdaptationContext context, NetWeight target, IReadOnlyDictionary<string, Tensor> stored, IReadOnlyDictionary<string, string> notes)
    {
        (Tensor? u, Tensor? s, Tensor? v) = (stored.GetValueOrDefault(SpectralAdapter.UName), stored.GetValueOrDefault(SpectralAdapter.SName), stored.GetValueOrDefault(SpectralAdapter.VName));
        EspalierException.Require(u is not null && s is not null && v is not null && u.shape[0] == target.Rows && v.shape[0] == target.Columns,
            $"The saved spectral weight of {target.Module} is incomplete or of another shape.");
        return new SpectralAdapter(u, s, v, RankOf(s.shape[0]), Enhanced);
    }

    /// <inheritdoc/>
    /// <remarks>Decay would shorten the vectors, which are brought back to length 1 at once, and pull s to 0: factors have none.</remarks>
    protected internal override ParameterGroup Group(string name) => name.Contains(".sst_", StringComparison.Ordinal) ? new ParameterGroup(DecayMultiplier: 0) : new ParameterGroup();

    /// <inheritdoc/>
    protected override WeightAdaptationRun NewRun(AdaptationContext context, IReadOnlyList<NetWeight> targets, IReadOnlyList<ILinearAdapter> adapters, IReadOnlyList<(string Name, Parameter Value)> whole) =>
        new SstRun(this, context, targets, adapters, whole);
}

/// <summary>One training with SST: keeps the factors what they are, and exchanges the active columns.</summary>
public sealed class SstRun : WeightAdaptationRun
{
    private readonly SpectralRounds _rounds;

    /// <summary>Attaches the spectral weights.</summary>
    public SstRun(Sst method, AdaptationContext context, IReadOnlyList<NetWeight> targets, IReadOnlyList<ILinearAdapter> adapters, IReadOnlyList<(string Name, Parameter Value)> whole)
        : base(method, context, targets, adapters, whole) => _rounds = new SpectralRounds(method, [.. targets.Zip(adapters, (t, a) => (t.Module, (SpectralAdapter)a))], context.Seed);

    /// <inheritdoc/>
    public override void BeforeStep(TrainingStep step) => _rounds.BeforeStep(step);

    /// <inheritdoc/>
    public override void AfterBackward(TrainingStep step) => _rounds.AfterBackward(step);

    /// <inheritdoc/>
    public override void AfterStep(TrainingStep step) => _rounds.AfterStep(step);

    /// <inheritdoc/>
    public override IReadOnlyList<(string Name, Tensor Value)> SaveState() => _rounds.SaveState();

    /// <inheritdoc/>
    public override void LoadState(IReadOnlyDictionary<string, Tensor> state) => _rounds.LoadState(state);
}
