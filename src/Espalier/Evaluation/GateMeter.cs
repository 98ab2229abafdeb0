using System.Diagnostics;
using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Evaluation;

/// <summary>What gates save, measured image by image.</summary>
/// <param name="Macs">Mean multiply-accumulates of an image, those of closed filters left out, predictors not counted.</param>
/// <param name="Least">The least of all images.</param>
/// <param name="Most">The most of all images.</param>
/// <param name="Dense">Those of the net without gates.</param>
/// <param name="Predictors">Those of all predictors, which come on top.</param>
/// <param name="Open">The mean share of open filters of each gate, by its convolution, in percent.</param>
/// <param name="Images">The images measured.</param>
public sealed record GateWork(double Macs, double Least, double Most, long Dense, long Predictors, IReadOnlyDictionary<string, double> Open, int Images)
{
    /// <summary>The share of multiply-accumulates that is saved, predictors not counted, in percent.</summary>
    public double Reduction => 100 * (1 - (Macs / Dense));

    /// <summary>The same with the predictors' own work.</summary>
    public double NetReduction => 100 * (1 - ((Macs + Predictors) / Dense));
}

/// <summary>
/// Counts the work of a net with gates while it runs, until it is disposed. A convolution costs open filters · places · open input channels · k²; input
/// channels are those that the gate before left open where nothing but pools stands between, else all. Linear maps count whole.
/// </summary>
public sealed class GateMeter : IDisposable
{
    private readonly VisionModel _model;
    private readonly List<(GateLayer Gate, Action<GateReading>? Before)> _taps = [];
    private readonly Dictionary<GateLayer, double[]> _now = [];
    private readonly Dictionary<GateLayer, double> _open = [];
    private readonly List<double> _macs = [];
    private readonly Dictionary<ConvLayer, GateLayer> _own;

    /// <summary>Begins to count.</summary>
    /// <param name="model">The net.</param>
    public GateMeter(VisionModel model)
    {
        _model = model;
        _own = model.Gates.ToDictionary(g => g.Convolution);
        foreach (GateLayer gate in model.Gates)
        {
            Action<GateReading>? before = gate.Observer;
            _taps.Add((gate, before));
            gate.Observer = reading =>
            {
                before?.Invoke(reading);
                using var scope = NewDisposeScope();
                _now[gate] = [.. reading.Open.sum([1L]).cpu().data<float>().Select(v => (double)v)];
            };
        }
    }

    /// <summary>What was counted so far.</summary>
    public GateWork Work => new(
        _macs.Average(), _macs.Min(), _macs.Max(), _model.Macs, _model.Gates.Sum(g => g.PredictorMacs),
        _model.Gates.ToDictionary(g => g.Convolution.Name, g => 100 * _open[g] / (g.Shape.Channels * _macs.Count)), _macs.Count);

    /// <summary>Runs the net on a batch and counts.</summary>
    /// <param name="images">[images, channels, height, width], normalised.</param>
    /// <returns>Logits, in the caller's scope.</returns>
    public Tensor Forward(Tensor images)
    {
        Tensor logits = _model.Forward(images);
        for (int image = 0; image < images.shape[0]; image++)
        {
            _macs.Add(_model.Layers.Sum(l => MacsOf(l, image)));
        }

        foreach ((GateLayer gate, double[] open) in _now)
        {
            _open[gate] = _open.GetValueOrDefault(gate) + open.Sum();
        }

        return logits;
    }

    /// <summary>Measures accuracy and work of a net on images.</summary>
    /// <param name="model">The net; its mode is put back.</param>
    /// <param name="images">The images.</param>
    /// <param name="limit">The most images, from the first; null takes all.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public static (ImageAccuracyResult Accuracy, GateWork Work) Measure(VisionModel model, ImageTensors images, int? limit = null, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        using var meter = new GateMeter(model);
        return (ImageAccuracy.Evaluate(model, images, limit: limit, progress: progress, cancellation: cancellation, forward: meter.Forward), meter.Work);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((GateLayer gate, Action<GateReading>? before) in _taps)
        {
            gate.Observer = before;
        }
    }

    private double MacsOf(VisionLayer layer, int image)
    {
        if (layer is not ConvLayer convolution)
        {
            return layer.Macs;
        }

        GateLayer? own = _own.GetValueOrDefault(convolution), before = Feeding(convolution.Inputs[0]);
        return Macs(
            own is null ? convolution.Rows : _now[own][image], convolution.Shape.Positions, before is null ? convolution.Weight.shape[1] : _now[before][image], 1, convolution.Kernel * convolution.Kernel);
    }

    /// <summary>Multiply-accumulates of a convolution for one image: open filters · places · ⌊open inputs / groups⌋ · k².</summary>
    public static double Macs(double open, long places, double openInputs, long groups, long area) => open * places * (Math.Floor(openInputs / groups) * area);

    // Through pools a closed channel stays closed; a sum has channels of its own.
    private static GateLayer? Feeding(VisionLayer layer) => layer switch
    {
        GateLayer gate => gate,
        PlainLayer { Kind: PlainKind.MaxPool or PlainKind.MeanPool } => Feeding(layer.Inputs[0]),
        _ => null,
    };
}

/// <summary>The time of one image alone: through all filters, and with closed ones skipped.</summary>
/// <param name="Dense">The median time of the net without its gates, in milliseconds.</param>
/// <param name="Skipping">The median time of <see cref="SkippingRunner"/>, predictors included, in milliseconds.</param>
public sealed record SkippingSpeed(double Dense, double Skipping)
{
    /// <summary>Measures both in turns on the same images.</summary>
    /// <param name="model">The net with gates.</param>
    /// <param name="images">The images.</param>
    /// <param name="repeats">How many are timed, each once by either.</param>
    public static SkippingSpeed Measure(VisionModel model, ImageTensors images, int repeats = 40)
    {
        using var frozen = no_grad();
        using var runner = new SkippingRunner(model);
        using VisionModel dense = model.WithoutGates();
        dense.Training = false;
        var batches = new ImageBatches(images, 1) { Mean = model.Config.Mean, Deviation = model.Config.Deviation };
        (Tensor Image, Tensor Label)[] all = [.. batches.InOrder(repeats, model.Device)];
        (int first, int second) = (0, 0);
        double[] times = Times([() => dense.Forward(all[first++ % all.Length].Image), () => runner.Forward(all[second++ % all.Length].Image)], repeats);
        Array.ForEach(all, b =>
        {
            b.Image.Dispose();
            b.Label.Dispose();
        });
        return new SkippingSpeed(times[0], times[1]);
    }

    /// <summary>The median times of several forward passes, measured in turns after five that do not count, in milliseconds.</summary>
    /// <param name="passes">What is timed; what it gives is disposed.</param>
    /// <param name="repeats">How often each is timed.</param>
    public static double[] Times(IReadOnlyList<Func<Tensor>> passes, int repeats)
    {
        const int warmup = 5;
        double[][] times = [.. passes.Select(_ => new double[repeats])];
        for (int i = -warmup; i < repeats; i++)
        {
            foreach ((int which, Func<Tensor> pass) in passes.Index())
            {
                var clock = Stopwatch.StartNew();
                using Tensor output = pass();
                times[which][Math.Max(0, i)] = clock.Elapsed.TotalMilliseconds;
            }
        }

        return [.. times.Select(t => t.Order().ElementAt(repeats / 2))];
    }
}
