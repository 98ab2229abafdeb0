using Espalier.Models;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>A run of a <see cref="WeightAdaptation"/>: adapters attached to weights. Methods with more of their own derive from it.</summary>
public class WeightAdaptationRun : IAdaptationRun
{
    internal const string TargetsNote = "targets", WholeStem = "net";

    private readonly WeightAdaptation _method;
    private readonly List<(NetWeight Target, Tensor Before)> _merged = [];

    /// <summary>Attaches the adapters, under their masks where the base is pruned.</summary>
    /// <param name="method">The method.</param>
    /// <param name="context">The net and the run.</param>
    /// <param name="targets">The weights.</param>
    /// <param name="adapters">Their adapters; the run disposes them.</param>
    /// <param name="whole">The parameters that are trained whole.</param>
    public WeightAdaptationRun(WeightAdaptation method, AdaptationContext context, IReadOnlyList<NetWeight> targets, IReadOnlyList<ILinearAdapter> adapters, IReadOnlyList<(string Name, Parameter Value)> whole)
    {
        (_method, Context, Targets, Whole) = (method, context, targets, whole);
        string? taken = targets.FirstOrDefault(t => t.Adapter is not null)?.Module;
        if (taken is not null)
        {
            foreach (ILinearAdapter adapter in adapters)
            {
                adapter.Dispose();
            }
        }

        EspalierException.Require(taken is null, $"{taken} carries an adapter already; merge that one or take it off first.");
        using var scope = NewDisposeScope();
        Adapters = [.. adapters.Zip(targets, (adapter, target) => adapter.KeepsZeros || context.Keep(target) is not { } keep ? adapter : new MaskedAdapter(adapter, keep))];
        Attach();
    }

    /// <summary>The net and the run.</summary>
    public AdaptationContext Context { get; }

    /// <summary>The weights that carry adapters.</summary>
    public IReadOnlyList<NetWeight> Targets { get; }

    /// <summary>The adapter of each, masked where the base is pruned.</summary>
    public IReadOnlyList<ILinearAdapter> Adapters { get; }

    /// <summary>The parameters of the net that are trained whole.</summary>
    public IReadOnlyList<(string Name, Parameter Value)> Whole { get; }

    /// <inheritdoc/>
    public string Name => AdapterFile.SlugOf(_method);

    /// <inheritdoc/>
    public virtual string Description => $"{AdapterFile.SlugOf(_method)} {OptionsBinder.Words(_method).ToJsonString()}";

    /// <inheritdoc/>
    public virtual IReadOnlyList<(string Name, Parameter Value)> Trainable =>
        [.. Targets.Zip(Adapters).SelectMany(t => t.Second.Parameters.Select(p => ($"{t.First.Module}.{p.Name}", p.Value))), .. Whole];

    /// <inheritdoc/>
    public virtual Func<string, ParameterGroup>? Groups => _method.Group;

    /// <inheritdoc/>
    public virtual Func<IReadOnlyList<OptimizedParameter>, IOptimizer>? Optimizer => null;

    /// <inheritdoc/>
    public virtual Func<long, double>? Schedule => null;

    /// <inheritdoc/>
    public virtual Func<ITrainingObjective, ITrainingObjective>? Objective => null;

    /// <inheritdoc/>
    public virtual void BeforeStep(TrainingStep step)
    {
    }

    /// <inheritdoc/>
    public virtual void AfterBackward(TrainingStep step)
    {
    }

    /// <inheritdoc/>
    public virtual void AfterStep(TrainingStep step)
    {
    }

    /// <inheritdoc/>
    public virtual IReadOnlyList<(string Name, Tensor Value)> SaveState() => [];

    /// <inheritdoc/>
    public virtual void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
    }

    /// <inheritdoc/>
    public virtual void Finish()
    {
    }

    /// <inheritdoc/>
    public virtual void Save(string folder)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        AdapterFile.Save(
            folder,
            _method,
            [.. Targets.Zip(Adapters).SelectMany(t => t.Second.Stored.Select(s => ($"{t.First.Module}.{s.Name}", s.Value))), .. Whole.Select(w => ($"{WholeStem}.{w.Name}", (Tensor)w.Value))],
            new Dictionary<string, string>(_method.Notes(this)) { [TargetsNote] = string.Join('\n', Targets.Select(t => t.Module)) });
    }

    /// <inheritdoc/>
    public virtual void Merge()
    {
        string? packed = Targets.FirstOrDefault(t => t.IsCompact)?.Name;
        EspalierException.Require(packed is null, $"{packed} is stored in a packed form, so nothing can be merged into it; merge into the model that it was packed from.");
        if (_merged.Count > 0)
        {
            return;
        }

        using var _ = no_grad();
        foreach ((NetWeight target, ILinearAdapter adapter) in Targets.Zip(Adapters))
        {
            using var scope = NewDisposeScope();
            Tensor matrix = target.Matrix();
            Tensor before = matrix.clone().DetachFromDisposeScope();
            Tensor merged = adapter.Merge(matrix);
            long revived = Context.Masks.GetValueOrDefault(target.Name)?.Revived(merged) ?? 0;
            _merged.Add((target, before));
            if (revived > 0)
            {
                Unmerge();
            }

            EspalierException.Require(revived == 0, $"Merging would fill {revived} pruned weights of {target.Name}; leave the adapter unmerged, or merge into the dense model.");
            target.SetMatrix(merged);
            target.Attach(null);
        }
    }

    /// <inheritdoc/>
    public virtual void Unmerge()
    {
        foreach ((NetWeight target, Tensor before) in _merged)
        {
            target.SetMatrix(before);
            before.Dispose();
        }

        _merged.Clear();
        Attach();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Takes the adapters off and releases them.</summary>
    /// <param name="disposing">Always true.</param>
    protected virtual void Dispose(bool disposing)
    {
        foreach ((NetWeight target, ILinearAdapter adapter) in Targets.Zip(Adapters))
        {
            if (ReferenceEquals(target.Adapter, adapter))
            {
                target.Attach(null);
            }

            adapter.Dispose();
        }

        _merged.ForEach(m => m.Before.Dispose());
        _merged.Clear();
    }

    private void Attach()
    {
        foreach ((NetWeight target, ILinearAdapter adapter) in Targets.Zip(Adapters))
        {
            target.Attach(adapter);
        }
    }
}
