using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>A run of S²FT: units moved together, their parts trained in place, units moved back. What it trained is then in the weights; the adapter is the difference, by original units.</summary>
internal sealed class S2ftRun : IAdaptationRun
{
    private const string DeltaName = "delta", UnitsName = "units", ModulesNote = "modules";

    private readonly S2ft _method;
    private readonly AdaptationContext _context;
    private readonly List<Part> _parts = [];
    private readonly List<(CoupledGroup Group, S2ftPermutation Moved)> _moved = [];
    private readonly List<(NetWeight Weight, Tensor Indices, int Axis, Tensor Before)> _opened = [];

    private S2ftRun(S2ft method, AdaptationContext context) => (_method, _context) = (method, context);

    /// <inheritdoc/>
    public string Name => "s2ft";

    /// <inheritdoc/>
    public string Description => $"s2ft {OptionsBinder.Words(_method).ToJsonString()}";

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Parameter Value)> Trainable => [.. _parts.Select(p => ($"{p.Weight.Module}.part", p.Adapter.Part))];

    /// <inheritdoc/>
    public Func<IReadOnlyList<OptimizedParameter>, IOptimizer>? Optimizer => !_method.OfficialOptimizer ? null : parameters =>
    {
        TrainingOptions o = _context.Options;
        return new PartialAdamW(parameters, new PartialAdamW.Rule(o.Beta1, o.Beta2, 1e-6, o.WeightDecay, CorrectBias: true));
    };

    /// <summary>Moves the units and attaches the parts.</summary>
    public static S2ftRun Start(S2ft method, AdaptationContext context, IReadOnlyList<S2ftUnits> chosen)
    {
        var run = new S2ftRun(method, context);
        try
        {
            run.Begin(chosen);
            return run;
        }
        catch
        {
            run.Dispose();
            throw;
        }
    }

    /// <summary>Adds a saved adapter to the weights, in place.</summary>
    public static S2ftRun Open(S2ft method, AdaptationContext context)
    {
        var run = new S2ftRun(method, context);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using AdapterFile file = AdapterFile.Open(context.Saved!);
        var found = new List<(NetWeight Weight, Tensor Delta, Tensor Units, int Axis)>();
        foreach (string line in file.Notes.GetValueOrDefault(ModulesNote, "").Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            string module = line[..^1];
            int axis = line[^1] - '0';
            NetWeight weight = context.Weights.FirstOrDefault(w => w.Module == module) ?? throw new EspalierException($"The adapter in {context.Saved} changes {module}, which this net has not; it belongs to another one.");
            IReadOnlyDictionary<string, Tensor> stored = file.Below($"{module}.{axis}");
            bool fits = stored.TryGetValue(DeltaName, out Tensor? delta) && stored.TryGetValue(UnitsName, out Tensor? units) && delta.dim() == 2 && delta.shape[axis] == units.numel()
                && delta.shape[1 - axis] == (axis == 0 ? weight.Columns : weight.Rows) && units.numel() > 0 && units.min().item<long>() >= 0 && units.max().item<long>() < (axis == 0 ? weight.Rows : weight.Columns);
            EspalierException.Require(fits, $"The saved adapter of {module} does not fit this net.");
            bool fills = context.Masks.ContainsKey(weight.Name) && stored[DeltaName].ne(0).logical_and(context.Keep(weight)!.index_select(axis, stored[UnitsName]).logical_not()).any().item<bool>();
            EspalierException.Require(!fills, $"The adapter in {context.Saved} would fill pruned weights of {weight.Name}; it was trained on another base, so use it with that one.");
            found.Add((weight, stored[DeltaName], stored[UnitsName], axis));
        }

        foreach ((NetWeight weight, Tensor delta, Tensor units, int axis) in found)
        {
            Tensor matrix = weight.Matrix();
            run._opened.Add((weight, units.DetachFromDisposeScope(), axis, matrix.index_select(axis, units).DetachFromDisposeScope()));
            S2ftDelta.Scatter(matrix, delta, units, axis);
        }

        return run;
    }

    /// <inheritdoc/>
    public void AfterBackward(TrainingStep step)
    {
        foreach (Part part in _parts)
        {
            // A pruned weight inside a part has no gradient, so it stays zero under any optimiser.
            if (part.Pruned is not null)
            {
                part.Adapter.Part.grad?.masked_fill_(part.Pruned, 0);
            }
        }
    }

    /// <inheritdoc/>
    public void Finish() => PutBack();

    /// <inheritdoc/>
    public void Save(string folder)
    {
        PutBack();
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        var tensors = new List<(string, Tensor)>();
        foreach (var (weight, indices, axis, before) in Changes())
        {
            tensors.Add(($"{weight.Module}.{axis}.{DeltaName}", weight.Matrix().index_select(axis, indices).to(ScalarType.Float32) - before.to(ScalarType.Float32)));
            tensors.Add(($"{weight.Module}.{axis}.{UnitsName}", indices));
        }

        AdapterFile.Save(folder, _method, tensors, new Dictionary<string, string> { [ModulesNote] = string.Join('\n', Changes().Select(c => $"{c.Weight.Module}{c.Axis}")) });
    }

    /// <inheritdoc/>
    public void Merge() => PutBack();

    /// <inheritdoc/>
    public void Unmerge()
    {
        // In place from the first step on: the weights carry the change whether it counts as merged or not.
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        PutBack();
        _parts.ForEach(p => p.Dispose());
        _parts.Clear();
        foreach (var (_, indices, _, before) in _opened)
        {
            indices.Dispose();
            before.Dispose();
        }

        _opened.Clear();
    }

    private IEnumerable<(NetWeight Weight, Tensor Indices, int Axis, Tensor Before)> Changes() => _opened.Concat(_parts.Select(p => (p.Weight, p.Indices, p.Adapter.Axis, p.Before)));

    private void Begin(IReadOnlyList<S2ftUnits> chosen)
    {
        var weights = _context.Weights.ToDictionary(w => w.Name, StringComparer.Ordinal);
        var parameters = _context.Parameters.ToDictionary(p => p.Name, p => p.Value, StringComparer.Ordinal);
        foreach (S2ftUnits units in chosen)
        {
            S2ftPermutation moved = S2ftPermutation.Of(units.First, units.Second, units.Group.Count);
            (SlicePattern maker, SlicePattern reader) = (units.Maker, units.Group.Reader);
            // Taken before the units move.
            using Tensor? firstBefore = units.First.Count == 0 ? null : Taken(weights[maker.Tensor], 0, Rows(maker, Placed(moved.Order, moved.First)));
            using Tensor? secondBefore = units.Second.Count == 0 ? null : Taken(weights[reader.Tensor], 1, Rows(reader, Placed(moved.Order, moved.Second)));
            Move(units.Group, moved.Order, parameters);
            _moved.Add((units.Group, moved));
            Add(weights[maker.Tensor], 0, maker, moved.Order, moved.First, firstBefore);
            Add(weights[reader.Tensor], 1, reader, moved.Order, moved.Second, secondBefore);
        }
    }

    private void Add(NetWeight weight, int axis, SlicePattern pattern, long[] order, (long Start, long End) range, Tensor? before)
    {
        if (before is null)
        {
            return;
        }

        using var scope = NewDisposeScope();
        using var _ = no_grad();
        EspalierException.Require(weight.Adapter is null, $"{weight.Module} carries an adapter already; merge that one or take it off first.");
        long[] rows = Rows(pattern, Placed(order, range));
        Tensor indices = tensor(rows, device: weight.Value.device);
        Tensor? pruned = _context.Keep(weight) is { } keep ? keep.index_select(axis, indices).logical_not() : null;
        var adapter = new PartialLinear(weight.Matrix(), axis, pattern.Offset + (range.Start * pattern.Stride), pattern.Offset + (range.End * pattern.Stride));
        weight.Attach(adapter);
        _parts.Add(new Part(weight, adapter, indices.DetachFromDisposeScope(), before.clone().DetachFromDisposeScope(), pruned?.DetachFromDisposeScope()));
    }

    /// <summary>Units go back to their places; the parts, no longer ranges, become tensors of their own.</summary>
    private void PutBack()
    {
        if (_moved.Count == 0)
        {
            return;
        }

        using var scope = NewDisposeScope();
        using var _ = no_grad();
        var parameters = _context.Parameters.ToDictionary(p => p.Name, p => p.Value, StringComparer.Ordinal);
        foreach (Part part in _parts)
        {
            part.Weight.Attach(null);
            bool required = part.Adapter.Part.requires_grad;
            part.Adapter.Part.requires_grad = false;
            part.Adapter.Part.set_(part.Adapter.Part.detach().clone());
            part.Adapter.Part.requires_grad = required;
        }

        foreach ((CoupledGroup group, S2ftPermutation moved) in _moved)
        {
            Move(group, moved.Inverse(), parameters);
        }

        _moved.Clear();
    }

    private static void Move(CoupledGroup group, long[] order, Dictionary<string, Parameter> parameters)
    {
        using var scope = NewDisposeScope();
        foreach (SlicePattern pattern in group.Patterns)
        {
            S2ftPermutation.Move(parameters[pattern.Tensor].detach(), pattern, order);
        }
    }

    private static Tensor Taken(NetWeight weight, int axis, long[] rows)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        return weight.Matrix().index_select(axis, tensor(rows, device: weight.Value.device)).MoveToOuterDisposeScope();
    }

    private static IEnumerable<long> Placed(long[] order, (long Start, long End) range) => order[(int)range.Start..(int)range.End];

    private static long[] Rows(SlicePattern pattern, IEnumerable<long> units) =>
        [.. units.SelectMany(u => Enumerable.Range(0, (int)pattern.Length).Select(i => pattern.Offset + (u * pattern.Stride) + i))];

    /// <summary>One trained part.</summary>
    /// <param name="Weight">The weight that it is of.</param>
    /// <param name="Adapter">The map's partial product.</param>
    /// <param name="Indices">Its rows or columns as they are numbered in the net.</param>
    /// <param name="Before">What they held.</param>
    /// <param name="Pruned">True where the base is pruned; null for a dense one.</param>
    private sealed record Part(NetWeight Weight, PartialLinear Adapter, Tensor Indices, Tensor Before, Tensor? Pruned) : IDisposable
    {
        public void Dispose()
        {
            if (ReferenceEquals(Weight.Adapter, Adapter))
            {
                Weight.Attach(null);
            }

            Adapter.Dispose();
            Indices.Dispose();
            Before.Dispose();
            Pruned?.Dispose();
        }
    }
}
