using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Recipes;

/// <summary>A way to adapt a net, and the learning rates that are tried for it.</summary>
/// <param name="Name">The arm.</param>
/// <param name="Method">The method.</param>
/// <param name="Rates">The rates; the best by the validation images counts.</param>
internal sealed record TunedArm(string Name, IAdaptation Method, IReadOnlyList<double> Rates);

/// <summary>Adapts copies of a trained vision net to images of another domain: what recipes of adapters compare.</summary>
/// <param name="context">Device, cancellation.</param>
/// <param name="start">The trained net; it stays as it is.</param>
/// <param name="training">Images of the new domain to train on.</param>
/// <param name="validation">Images of it that choose the rate.</param>
internal sealed class ShiftBench(RecipeContext context, VisionModel start, ImageTensors training, ImageTensors validation)
{
    /// <summary>How many numbers are trained.</summary>
    public const string Trained = "trained parameters";

    /// <summary>What the optimiser keeps, in KiB.</summary>
    public const string State = "optimizer state, KiB";

    /// <summary>The rate that was best.</summary>
    public const string Rate = "learning rate";

    /// <summary>The time of one training.</summary>
    public const string Seconds = "seconds";

    /// <summary>Images per step. Default 50.</summary>
    public int Batch { get; init; } = 50;

    /// <summary>The training apart from the rate.</summary>
    public required TrainingOptions Options { get; init; }

    /// <summary>Trains an arm with each of its rates and shows the best net, its adapter on it.</summary>
    /// <param name="arm">The arm.</param>
    /// <param name="seed">Of adapters and order; the same for arms that are compared.</param>
    /// <param name="measure">Gives figures of the best net; called once for every net that is the best so far, its last answer counts.</param>
    /// <returns>Those figures and the common ones.</returns>
    public IReadOnlyList<(string Metric, double Value)> Run(TunedArm arm, Seed seed, Func<VisionModel, AdaptationResult, IEnumerable<(string Metric, double Value)>> measure)
    {
        (double Held, IReadOnlyList<(string, double)> Figures)? best = null;
        foreach (double rate in arm.Rates)
        {
            using VisionModel net = start.Clone();
            using AdaptationResult result = new AdaptationTraining(Options with { LearningRate = rate }) { Batch = Batch, Seed = seed }.Run(arm.Method, net, training, cancellation: context.Cancellation);
            double held = arm.Rates.Count == 1 ? 0 : Accuracy(net, validation);
            if (best is null || held > best.Value.Held)
            {
                best = (held,
                [
                    .. measure(net, result), (Trained, result.TrainedParameters), (State, result.OptimizerBytes / 1024.0), (Rate, rate), (Seconds, result.Training.Seconds),
                ]);
            }
        }

        context.Progress.Say(FormattableString.Invariant($"  {arm.Name}: {string.Join(", ", best!.Value.Figures.Select(f => $"{f.Item1} {Number.Text(f.Item2)}"))}"));
        return best.Value.Figures;
    }

    /// <summary>The share of images that are named rightly, in percent.</summary>
    public double Accuracy(VisionModel net, ImageTensors images) => ImageAccuracy.Evaluate(net, images, cancellation: context.Cancellation).Top1;
}
