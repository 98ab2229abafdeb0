using System.Globalization;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

/// <summary>How much weights turned back and forth at one step.</summary>
/// <param name="Step">The step, from 0.</param>
/// <param name="Events">Oscillations of that step per weight.</param>
/// <param name="Share">The share of weights whose moving mean of oscillations is above the bound.</param>
/// <param name="Free">The share of weights that annealing left free; 1 where none was frozen.</param>
public sealed record OscillationPoint(long Step, double Events, double Share, double Free);

/// <summary>Steps 4 and 6 in a training: freezes confident weights from a step on, and counts oscillations.</summary>
public sealed class OscillationHook : ITrainingHook, IDisposable
{
    private readonly IReadOnlyList<QuantisedWeight> _weights;
    private readonly Ofq _options;
    private readonly long _annealFrom;
    private readonly IProgressSink _progress;
    private readonly OscillationTracker[] _trackers;
    private readonly List<(QuantisedWeight Weight, Tensor Frozen, Tensor Before)> _held = [];
    private readonly List<OscillationPoint> _curve = [];

    internal OscillationHook(IReadOnlyList<QuantisedWeight> weights, Ofq options, long annealFrom, IProgressSink progress)
    {
        (_weights, _options, _annealFrom, _progress) = ([.. weights.Where(w => w.Watched)], options, annealFrom, progress);
        _trackers = [.. _weights.Select(_ => new OscillationTracker(options.Momentum))];
        Observe();
    }

    /// <inheritdoc/>
    public string Name => "ofq";

    /// <summary>Step by step.</summary>
    public IReadOnlyList<OscillationPoint> Curve => _curve;

    /// <summary>Oscillations per weight and step, the mean over the last steps.</summary>
    /// <param name="steps">How many; fewer where there were fewer.</param>
    public double Events(int steps) => _curve.TakeLast(steps).Select(p => p.Events).DefaultIfEmpty(0).Average();

    /// <inheritdoc/>
    public void AfterBackward(TrainingStep step)
    {
        if (step.Index < _annealFrom)
        {
            return;
        }

        foreach (QuantisedWeight weight in _weights)
        {
            using var scope = NewDisposeScope();
            (Tensor position, Tensor level) = weight.Levels();
            Tensor frozen = ConfidentWeights.Frozen(position, level, _options.BoundaryRange);
            if (weight.Value.grad is { } gradient)
            {
                weight.Part(gradient).masked_fill_(frozen, 0);
            }

            _held.Add((weight, frozen.DetachFromDisposeScope(), weight.Part(weight.Value.detach()).clone().DetachFromDisposeScope()));
        }
    }

    /// <inheritdoc/>
    public void AfterStep(TrainingStep step)
    {
        double free = 1;
        if (_held.Count > 0)
        {
            free = 1 - ((double)_held.Sum(h => h.Frozen.count_nonzero().item<long>()) / _held.Sum(h => h.Frozen.numel()));
            foreach ((QuantisedWeight weight, Tensor frozen, Tensor before) in _held)
            {
                // Momentum and decay move weights without a gradient too.
                Tensor part = weight.Part(weight.Value.detach());
                part.copy_(where(frozen, before, part));
            }

            Release();
        }

        Observe();
        long count = _trackers.Sum(t => t.Count);
        var point = new OscillationPoint(step.Index, (double)_trackers.Sum(t => t.LastEvents) / count, _trackers.Sum(t => t.Count * t.ShareAbove(_options.OscillationBound)) / count, free);
        _curve.Add(point);
        _progress.Report("oscillating weights", step.Index, point.Share);
    }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> SaveState() =>
    [
        .. _trackers.SelectMany((t, i) => t.SaveState().Select(s => (string.Create(CultureInfo.InvariantCulture, $"{i}.{s.Name}"), s.Value))),
        ("curve", tensor(_curve.SelectMany(p => (double[])[p.Step, p.Events, p.Share, p.Free]).ToArray(), [_curve.Count, 4], ScalarType.Float64)),
    ];

    /// <inheritdoc/>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
        for (int i = 0; i < _trackers.Length; i++)
        {
            string prefix = string.Create(CultureInfo.InvariantCulture, $"{i}.");
            _trackers[i].LoadState(state.Where(s => s.Key.StartsWith(prefix, StringComparison.Ordinal)).ToDictionary(s => s.Key[prefix.Length..], s => s.Value));
        }

        _curve.Clear();
        _curve.AddRange(state["curve"].data<double>().ToArray().Chunk(4).Select(p => new OscillationPoint((long)p[0], p[1], p[2], p[3])));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Release();
        foreach (OscillationTracker tracker in _trackers)
        {
            tracker.Dispose();
        }
    }

    private void Observe()
    {
        for (int i = 0; i < _weights.Count; i++)
        {
            using var scope = NewDisposeScope();
            _trackers[i].Observe(_weights[i].Levels().Level);
        }
    }

    private void Release()
    {
        _held.ForEach(h =>
        {
            h.Frozen.Dispose();
            h.Before.Dispose();
        });
        _held.Clear();
    }
}
