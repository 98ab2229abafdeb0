using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Models.Vision;
using Espalier.Reporting;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Ftwt
{
    private const int EstimateImages = 2000;

    /// <inheritdoc/>
    public VisionMethodResult Run(VisionMethodContext context, CancellationToken cancellation = default)
    {
        Check(context.Model, context.Options);
        VisionModel net = Gated(context.Model, new Seed(context.Seed.For("predictors")));
        try
        {
            GateWork estimate = Estimate(net, context.Images, EstimateImages, cancellation);
            context.Progress.Say(FormattableString.Invariant($"Masks by the target would save {estimate.Reduction:0.0} % of the multiply-accumulates; training the predictors of {net.Gates.Count} gates."));
            Train(net, context, cancellation);
            ImageTensors measured = context.Test ?? context.Images;
            double agreement = PredictorAgreement(net, measured, cancellation);
            (ImageAccuracyResult accuracy, GateWork work) = GateMeter.Measure(net, measured, cancellation: cancellation);
            SkippingSpeed speed = SkippingSpeed.Measure(net, measured);
            (string, double)[] figures =
            [
                ("estimated saving before training, % of multiply-accumulates", estimate.Reduction),
                ("saving, %", work.Reduction),
                ("saving with the predictors' own work, %", work.NetReduction),
                ("predictors agree with the target, %", agreement),
                ("accuracy by the target's masks, %", Oracle(net, measured, null, cancellation).Accuracy.Top1),
                ("accuracy, %", accuracy.Top1),
                ("one image without gates, ms", speed.Dense),
                ("one image with closed filters skipped, ms", speed.Skipping),
            ];
            Write(context.Folder, net, estimate, work, figures);
            using var scope = NewDisposeScope();
            return new VisionMethodResult(net, VisionMethodResult.Pack(Pruned(net)), figures);
        }
        catch
        {
            net.Dispose();
            throw;
        }
    }

    /// <summary>Trains a net with gates and their predictors, then the net around them. Weights that were pruned to zero before stay zero.</summary>
    /// <param name="net">What <see cref="Gated"/> made, changed in place.</param>
    /// <param name="context">Images and training.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public TrainingResult Train(VisionModel net, VisionMethodContext context, CancellationToken cancellation = default)
    {
        // In the paper the predictors have an optimiser of their own; here a group of the one there is.
        using var scope = NewDisposeScope();
        Dictionary<string, Tensor> masks = Pruned(net);
        int learning = (int)(Cooldown * context.Options.Steps);
        TrainingResult result = Phase(context.Options, learning, "training");
        if (FineTune > 0)
        {
            Phase(context.Options with { Steps = FineTune, LearningRate = FineTuneRate, Schedule = "multistep", Milestones = [0.58, 0.78, 0.98], WarmupSteps = 0 }, 0, "fine-tuning");
        }

        return result;

        TrainingResult Phase(TrainingOptions options, int until, string purpose) => (context.Training(new Seed(context.Seed.For(purpose)), options) with
        {
            Objective = (model, batches) => new Objective(this, model, batches, options.Accumulation, until),
            Groups = name => name.Contains(".gate.", StringComparison.Ordinal) ? new ParameterGroup(PredictorRate / options.LearningRate, 0) : new ParameterGroup(),
        }).Run(net, context.Images, masks, cancellation);
    }

    /// <summary>What the gates will save, known before they are trained: the targets' work on one pass in which every filter counts.</summary>
    /// <param name="net">A net with gates.</param>
    /// <param name="images">Training images.</param>
    /// <param name="limit">The most images; null takes all.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public GateWork Estimate(VisionModel net, ImageTensors images, int? limit, CancellationToken cancellation = default)
    {
        using var meter = new GateMeter(net);
        foreach (GateLayer gate in net.Gates)
        {
            Action<GateReading> count = gate.Observer!;
            gate.Observer = reading =>
            {
                using Tensor fires = Fires(reading);
                count(reading with { Open = fires });
            };
        }

        Deciding(net, _ => reading => ones_like(reading.Logits), () => ImageAccuracy.Evaluate(net, images, limit: limit, cancellation: cancellation, forward: meter.Forward));
        return meter.Work;
    }

    /// <summary>Accuracy and work with the target's masks in place of the predictors': the upper bound of what they can learn.</summary>
    /// <param name="net">A net with gates.</param>
    /// <param name="images">The images.</param>
    /// <param name="limit">The most images; null takes all.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public (ImageAccuracyResult Accuracy, GateWork Work) Oracle(VisionModel net, ImageTensors images, int? limit, CancellationToken cancellation = default) =>
        Deciding(net, _ => Fires, () => GateMeter.Measure(net, images, limit, cancellation: cancellation));

    /// <summary>Runs something while every gate decides otherwise than by its predictor.</summary>
    /// <param name="net">A net with gates; their decisions are put back.</param>
    /// <param name="decision">The decision of a gate.</param>
    /// <param name="work">What runs.</param>
    public static T Deciding<T>(VisionModel net, Func<GateLayer, Func<GateReading, Tensor>> decision, Func<T> work)
    {
        foreach (GateLayer gate in net.Gates)
        {
            gate.Decision = decision(gate);
        }

        try
        {
            return work();
        }
        finally
        {
            foreach (GateLayer gate in net.Gates)
            {
                gate.Decision = null;
            }
        }
    }

    /// <summary>How often predictors are right on images, the mean over the gates, in percent.</summary>
    public double PredictorAgreement(VisionModel net, ImageTensors images, CancellationToken cancellation = default)
    {
        var (sum, seen) = (0.0, 0L);
        foreach (GateLayer gate in net.Gates)
        {
            gate.Observer = reading =>
            {
                using Tensor fires = Fires(reading);
                sum += Agreement(reading.Logits, fires) * fires.shape[0];
                seen += fires.shape[0];
            };
        }

        ImageAccuracy.Evaluate(net, images, cancellation: cancellation);
        foreach (GateLayer gate in net.Gates)
        {
            gate.Observer = null;
        }

        return sum / seen;
    }

    // Keep masks of the weights that hold zeros: static pruning came before.
    private static Dictionary<string, Tensor> Pruned(VisionModel net)
    {
        using var frozen = no_grad();
        return net.Weights.Select(w => (w.WeightName, Keep: w.Weight.detach().ne(0))).Where(m => !m.Keep.all().item<bool>()).ToDictionary(m => m.WeightName, m => m.Keep, StringComparer.Ordinal);
    }

    private static void Write(string? folder, VisionModel net, GateWork estimate, GateWork work, IReadOnlyList<(string Name, double Value)> figures)
    {
        if (folder is null)
        {
            return;
        }

        string Number(double value) => value.ToString("0.0", System.Globalization.CultureInfo.InvariantCulture);
        new ReportPage("Gated filters", FormattableString.Invariant($"{work.Reduction:0.0} % of the multiply-accumulates are left out, image by image.")) { Kicker = "Espalier ftwt" }
            .Section("What was measured", FormattableString.Invariant($"An image takes {work.Macs:N0} multiply-accumulates on average, from {work.Least:N0} to {work.Most:N0}; without gates {work.Dense:N0}. The predictors take {work.Predictors:N0} on top."), new DataTable(
                [new Column("figure"), new Column("", Numeric: true)], [.. figures.Select(f => (IReadOnlyList<string>)[f.Name, f.Value.ToString("G4", System.Globalization.CultureInfo.InvariantCulture)])]))
            .Section("Every gate", "The mean share of filters that are open: by the target before training, and as the predictors choose now.", new DataTable(
                [new Column("convolution"), new Column("filters", Numeric: true), new Column("estimated, %", Numeric: true), new Column("open, %", Numeric: true)],
                [.. net.Gates.Select(g => (IReadOnlyList<string>)[g.Convolution.Name, Text.Count(g.Shape.Channels), Number(estimate.Open[g.Convolution.Name]), Number(work.Open[g.Convolution.Name])])]))
            .Save(Path.Combine(folder, "ftwt.html"));
    }

    /// <summary>Cross-entropy, and while the predictors learn w / L · Σ over the gates of their losses.</summary>
    private sealed class Objective(Ftwt method, VisionModel net, ImageBatches batches, int accumulation, int learning) : ITrainingObjective
    {
        public long Tokens { get; private set; }

        public Tensor Loss(long step, int microBatch)
        {
            using var scope = NewDisposeScope();
            (Tensor images, Tensor labels) = batches.Shuffled((step * accumulation) + microBatch, net.Device);
            Tokens += images.shape[0];
            var terms = new List<Tensor>();
            Watch(step < learning ? Learn : null);
            try
            {
                Tensor loss = nn.functional.cross_entropy(net.Forward(images), labels);
                terms.ForEach(t => scope.Attach(t));
                return (terms.Count == 0 ? loss : loss + (terms.Aggregate((a, b) => a + b) * (method.LossWeight / terms.Count))).MoveToOuterDisposeScope();
            }
            finally
            {
                Watch(null);
            }

            void Learn(GateReading reading)
            {
                using Tensor fires = method.Fires(reading);
                terms.Add(MaskLoss(reading.Logits, fires).DetachFromDisposeScope());
            }
        }

        private void Watch(Action<GateReading>? observer)
        {
            foreach (GateLayer gate in net.Gates)
            {
                gate.Observer = observer;
            }
        }
    }
}
