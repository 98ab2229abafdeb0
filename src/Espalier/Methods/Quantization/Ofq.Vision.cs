using System.Globalization;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Models.Vision;
using Espalier.Reporting;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

// A whole net, activations too: trained rounded, then once more with confident weights frozen.
public sealed partial record Ofq : IVisionMethod
{
    private const int LastSteps = 200;

    /// <inheritdoc/>
    public void Check(VisionModel model, TrainingOptions options) => RequireRoundable(model);

    /// <summary>Trains the net rounded, teaching it the classes and the float net's answers. The result holds rounded weights; beside it <see cref="QuantisedNet.FileName"/> says how activations are rounded.</summary>
    /// <inheritdoc/>
    public VisionMethodResult Run(VisionMethodContext context, CancellationToken cancellation = default)
    {
        Check(context.Model, context.Options);
        VisionModel net = context.Model.Clone();
        try
        {
            using var rounded = new QuantisedNet(net, this);
            int annealing = (int)Math.Round(AnnealShare * context.Options.Steps);
            var curve = new List<OscillationPoint>();
            var figures = new List<(string, double)>();
            if (context.Test is not null)
            {
                figures.Add(("accuracy of the float net", Accuracy(context.Model, context.Test, cancellation)));
            }

            Train(context, net, rounded, context.Options, null, curve, figures, "training", cancellation);
            if (annealing > 0)
            {
                Train(context, net, rounded, context.Options with { Steps = annealing, WarmupSteps = Math.Min(context.Options.Warmup, annealing / 10) }, 0, curve, figures, "annealing", cancellation);
            }

            if (context.Test is not null)
            {
                figures.Add(("accuracy of the rounded net", Accuracy(net, context.Test, cancellation)));
            }

            figures.Add(("kilobytes of rounded weights", rounded.WeightBits / 8192.0));
            rounded.Fold();
            if (context.Folder is { } folder)
            {
                Directory.CreateDirectory(folder);
                if (ActivationBits > 0 || QkReparam)
                {
                    rounded.Save(folder);
                }
                else
                {
                    // One of an earlier run would round the new net's activations.
                    File.Delete(Path.Combine(folder, QuantisedNet.FileName));
                }

                WritePage(folder, curve, figures);
            }

            return new VisionMethodResult(net, new Dictionary<string, SparsityMask>(), figures);
        }
        catch
        {
            net.Dispose();
            throw;
        }
    }

    private void Train(
        VisionMethodContext context, VisionModel net, QuantisedNet rounded, TrainingOptions options, long? annealFrom, List<OscillationPoint> curve, List<(string, double)> figures, string phase, CancellationToken cancellation)
    {
        using OscillationHook hook = rounded.Hook(annealFrom, context.Progress);
        VisionTraining training = context.Training(new Seed(context.Seed.For(phase)), options) with
        {
            Extra = rounded.Extra,
            Groups = rounded.Groups,
            Hooks = [hook],
            Objective = TeacherShare == 0 ? null : (student, batches) => new TaughtClasses(student, context.Model, batches, TeacherShare, options.Accumulation),
        };
        training.Run(net, context.Images, cancellation: cancellation);
        long before = curve.Count;
        curve.AddRange(hook.Curve.Select(p => p with { Step = p.Step + before }));
        figures.Add(($"oscillations per weight and step, last {LastSteps} of {phase}", hook.Events(LastSteps)));
        figures.Add(($"oscillating weights at the end of {phase}, %", 100 * hook.Curve[^1].Share));
    }

    private static double Accuracy(VisionModel net, ImageTensors images, CancellationToken cancellation) => ImageAccuracy.Evaluate(net, images, cancellation: cancellation).Top1;

    private static void WritePage(string folder, IReadOnlyList<OscillationPoint> curve, IReadOnlyList<(string Name, double Value)> figures) =>
        new ReportPage("Oscillating weights", "How many weights flip back and forth between two levels while the rounded net is trained.") { Kicker = "Espalier ofq" }
            .Section("Figures", null, new DataTable([new Column("figure"), new Column("", Numeric: true)], [.. figures.Select(f => (IReadOnlyList<string>)[f.Name, f.Value.ToString("G4", CultureInfo.InvariantCulture)])]))
            .Section("Weights that oscillate", "The share whose moving mean of oscillations is above the bound.", new LineChart { Title = "oscillating weights", XLabel = "step", YLabel = "% of the weights", Lines = [new Series("oscillating", [.. curve.Select(p => (p.Step + 1.0, 100 * p.Share))])] })
            .Section("Oscillations of each step", "Per million weights.", new LineChart { Title = "oscillations", XLabel = "step", YLabel = "per million weights", Lines = [new Series("oscillations", [.. curve.Select(p => (p.Step + 1.0, 1e6 * p.Events))])] })
            .Save(Path.Combine(folder, "oscillation.html"));

    /// <summary>Cross-entropy with the classes, and with the float net's probabilities.</summary>
    private sealed class TaughtClasses(VisionModel student, VisionModel teacher, ImageBatches batches, double share, int accumulation) : ITrainingObjective
    {
        public long Tokens { get; private set; }

        public Tensor Loss(long step, int microBatch)
        {
            using var scope = NewDisposeScope();
            (Tensor images, Tensor labels) = batches.Shuffled((step * accumulation) + microBatch, student.Device);
            Tokens += images.shape[0];
            Tensor answers;
            using (no_grad())
            {
                answers = teacher.Forward(images).softmax(-1);
            }

            Tensor log = nn.functional.log_softmax(student.Forward(images), -1);
            Tensor taught = -(answers * log).sum(dim: -1).mean(), named = nn.functional.nll_loss(log, labels);
            return ((share * taught) + ((1 - share) * named)).MoveToOuterDisposeScope();
        }
    }
}
