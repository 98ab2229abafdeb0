using Espalier.Models;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>An adaptation that puts an adapter on each of some weights and may train a few parameters of the net beside: a system of this kind is its adapter class and <see cref="Make"/>.</summary>
/// <remarks>
/// Works on linear maps and convolutions. On a pruned base every adapter that does not keep zeros by itself is masked (<see cref="MaskedAdapter"/>), so
/// that merging is exact and keeps them. Files hold what the adapters say (<see cref="ILinearAdapter.Stored"/>) and the parameters trained whole.
/// </remarks>
public abstract record WeightAdaptation : IAdaptation
{
    /// <summary>The weights that get adapters: <c>all</c> (default; all but the head), ends of names (<c>q_proj,v_proj</c>), patterns with *, !word to take away.</summary>
    public IReadOnlyList<string> Targets { get; init; } = ["all"];

    /// <summary>Parameters of the net that are trained whole beside: <c>head</c>, <c>biases</c>, <c>norms</c>, ends of names. Default none.</summary>
    public IReadOnlyList<string> Train { get; init; } = [];

    /// <inheritdoc/>
    public virtual bool Folds => true;

    /// <inheritdoc/>
    public virtual void Check(IReadOnlyList<NetWeight> weights, TrainingOptions options)
    {
        foreach (NetWeight weight in NetSelection.Weights(weights, Targets))
        {
            CheckWeight(weight);
        }
    }

    /// <inheritdoc/>
    public virtual IAdaptationRun Begin(AdaptationContext context)
    {
        if (context.Saved is null)
        {
            Check(context.Weights, context.Options);
            IReadOnlyList<NetWeight> targets = NetSelection.Weights(context.Weights, Targets);
            IReadOnlyList<(string Name, Parameter Value)> whole = NetSelection.Parameters(context, Train);
            string? twice = targets.Select(t => t.Name).Intersect(whole.Select(w => w.Name)).FirstOrDefault();
            EspalierException.Require(twice is null, $"{twice} would be trained whole and carry an adapter; take it out of train or out of targets.");
            return NewRun(context, targets, Make(context, targets), whole);
        }

        using AdapterFile file = AdapterFile.Open(context.Saved);
        return Open(context, file);
    }

    /// <summary>Makes the adapters, as they are before training.</summary>
    /// <param name="context">The net and the run; a method may calibrate with it.</param>
    /// <param name="targets">The weights, in the net's order.</param>
    /// <returns>One for each, not yet attached.</returns>
    protected internal abstract IReadOnlyList<ILinearAdapter> Make(AdaptationContext context, IReadOnlyList<NetWeight> targets);

    /// <summary>Makes the adapter of a weight from its file; not yet attached. Default: <see cref="Make"/> for this weight alone, and what is stored copied over it.</summary>
    /// <param name="context">The net; without an objective.</param>
    /// <param name="target">The weight.</param>
    /// <param name="stored">What <see cref="ILinearAdapter.Stored"/> gave when it was saved.</param>
    /// <param name="notes">What <see cref="Notes"/> gave.</param>
    protected internal virtual ILinearAdapter Restore(AdaptationContext context, NetWeight target, IReadOnlyDictionary<string, Tensor> stored, IReadOnlyDictionary<string, string> notes)
    {
        ILinearAdapter adapter = Make(context, [target])[0];
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        foreach ((string name, Tensor value) in adapter.Stored)
        {
            bool fits = stored.TryGetValue(name, out Tensor? saved) && saved.shape.AsSpan().SequenceEqual(value.shape);
            if (!fits)
            {
                adapter.Dispose();
            }

            EspalierException.Require(fits, $"The saved adapter of {target.Module} does not fit: {name} should be [{string.Join(", ", value.shape)}] and is {(saved is null ? "missing" : $"[{string.Join(", ", saved.shape)}]")}.");
            value.copy_(saved!);
        }

        return adapter;
    }

    /// <summary>Throws where a weight cannot carry this adapter (a rank above its sides). Default: every weight can.</summary>
    /// <param name="weight">A weight among the targets.</param>
    protected virtual void CheckWeight(NetWeight weight)
    {
    }

    /// <summary>What the file must note besides the options.</summary>
    /// <param name="run">The run that is saved.</param>
    protected internal virtual IReadOnlyDictionary<string, string> Notes(WeightAdaptationRun run) => new Dictionary<string, string>();

    /// <summary>The learning-rate and decay multipliers of a trained tensor. Default 1.</summary>
    /// <param name="name">Its name, "map.lora_A" or a parameter's own.</param>
    protected internal virtual ParameterGroup Group(string name) => new();

    /// <summary>Makes the run; a method that needs hooks, an optimiser or a schedule of its own gives a run derived from <see cref="WeightAdaptationRun"/>.</summary>
    /// <param name="context">The net and the run.</param>
    /// <param name="targets">The weights.</param>
    /// <param name="adapters">Their adapters.</param>
    /// <param name="whole">The parameters that are trained whole.</param>
    protected virtual WeightAdaptationRun NewRun(AdaptationContext context, IReadOnlyList<NetWeight> targets, IReadOnlyList<ILinearAdapter> adapters, IReadOnlyList<(string Name, Parameter Value)> whole) =>
        new(this, context, targets, adapters, whole);

    private WeightAdaptationRun Open(AdaptationContext context, AdapterFile file)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        string[] modules = file.Notes.GetValueOrDefault(WeightAdaptationRun.TargetsNote, "").Split('\n', StringSplitOptions.RemoveEmptyEntries);
        var byModule = context.Weights.ToDictionary(w => w.Module, StringComparer.Ordinal);
        string? missing = modules.FirstOrDefault(m => !byModule.ContainsKey(m));
        EspalierException.Require(missing is null, $"The adapter in {context.Saved} changes {missing}, which this net has not; it belongs to another one.");
        NetWeight[] targets = [.. modules.Select(m => byModule[m])];
        var adapters = new List<ILinearAdapter>();
        try
        {
            foreach (NetWeight target in targets)
            {
                adapters.Add(Restore(context, target, file.Below(target.Module), file.Notes));
            }
        }
        catch
        {
            adapters.ForEach(a => a.Dispose());
            throw;
        }

        var whole = new List<(string, Parameter)>();
        foreach ((string name, Tensor value) in file.Below(WeightAdaptationRun.WholeStem))
        {
            Parameter? own = context.Parameters.FirstOrDefault(p => p.Name == name).Value;
            EspalierException.Require(own is not null && own.shape.AsSpan().SequenceEqual(value.shape), $"The adapter in {context.Saved} holds {name} [{string.Join(", ", value.shape)}], which does not fit this net.");
            own.copy_(value);
            whole.Add((name, own));
        }

        return NewRun(context, targets, adapters, whole);
    }
}
