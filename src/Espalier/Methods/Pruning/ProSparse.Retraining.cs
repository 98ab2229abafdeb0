using System.Globalization;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial class ProSparse
{
    /// <summary>Batches of text on which activations are counted.</summary>
    private const int Probes = 4;

    /// <summary>
    /// Steps 1 to 3 on a whole model: ReLU, training of every parameter under the staged penalty, the threshold. Masks are kept.
    /// The model's configuration names the new activation afterwards, and so does the result.
    /// </summary>
    /// <inheritdoc/>
    public RetrainingResult Retrain(RetrainingContext context)
    {
        LanguageModel model = context.Model;
        ActivationPenaltySchedule schedule = Schedule(Steps, Neurons(model.Config));
        using var scope = NewDisposeScope();
        IReadOnlyList<ActivationTap> taps = Watch(model.Blocks);
        try
        {
            (double Zeros, long Dead)[] before = Probe(context, taps);
            Substitute(model, context.Progress);
            using TrainableSubset subset = TrainableSubset.Select(model, new Perp { Subset = Subset.Full });
            var options = new TrainingOptions { Steps = Steps, LearningRate = LearningRate, Schedule = "cosine", WeightDecay = WeightDecay };
            using var loop = new TrainingLoop(options, subset.Parameters, new Objective(new LanguageModelObjective(model, context.Batches), taps, schedule))
            {
                Masks = KeptZeros.Masks(model.Blocks, context.Masks),
                Hooks = [new Log(taps, schedule, options.LogEvery, context.Progress)],
                StateFolder = context.StateFolder,
                Progress = context.Progress,
                Identity = string.Create(CultureInfo.InvariantCulture,
                    $"prosparse, factors {string.Join(' ', schedule.Peaks)}, ends {string.Join(' ', schedule.Ends)} after {schedule.SubstitutionEnd}, batch {Batch}, length {Length}, seed {context.Seed.Value}"),
            };
            TrainingResult result = TrainingLoop.HasState(context.StateFolder) ? loop.Resume(context.Cancellation) : loop.Run(context.Cancellation);
            KeptZeros.Require(model.Blocks, context.Masks, "prosparse");

            (double Zeros, long Dead)[] trained = Probe(context, taps);
            ApplyThreshold(model, Threshold);
            (double Zeros, long Dead)[] shifted = Probe(context, taps);
            return new RetrainingResult(subset.Count, result.Losses, result.Seconds, new Dictionary<string, long>(subset.Groups))
            {
                Config = model.Config,
                LossName = "cross-entropy + activation penalty, nats per token",
                Activations = [.. taps.Select((_, i) => new ActivationSparsity(i, before[i].Zeros, trained[i].Zeros, shifted[i].Zeros, shifted[i].Dead, model.Config.ShapeOf(i).Neurons))],
            };
        }
        finally
        {
            foreach (ActivationTap tap in taps)
            {
                tap.Dispose();
            }
        }
    }

    private static void Substitute(LanguageModel model, IProgressSink progress)
    {
        progress.Say(model.Config.Activation switch
        {
            "relu" => "The model has ReLU already: there is nothing to substitute, and training starts from what it is.",
            Activations.FatReluName => "The model has a thresholded ReLU already; it is trained with a plain one, and the threshold is set anew afterwards.",
            string other => $"ReLU takes the place of {other} in every feed-forward part.",
        });
        model.SetActivation("relu");
    }

    // The batches that follow those of the run: text that was not trained on, where the text is long enough.
    private (double Zeros, long Dead)[] Probe(RetrainingContext context, IReadOnlyList<ActivationTap> taps)
    {
        using var frozen = no_grad();
        foreach (ActivationTap tap in taps)
        {
            tap.Reset();
        }

        for (int i = 0; i < Probes; i++)
        {
            using var scope = NewDisposeScope();
            context.Model.HiddenStates(context.Batches(Steps + i, 0));
        }

        (double, long)[] counted = [.. taps.Select(t => (t.Sparsity, t.DeadNeurons))];
        foreach (ActivationTap tap in taps)
        {
            tap.Reset();
        }

        return counted;
    }

    private static double Neurons(ModelConfig config) => Enumerable.Range(0, config.LayerCount).Average(i => config.ShapeOf(i).Neurons);

    private sealed class Objective(LanguageModelObjective inner, IReadOnlyList<ActivationTap> taps, ActivationPenaltySchedule schedule) : ITrainingObjective
    {
        public long Tokens => inner.Tokens;

        // The schedule counts from 1.
        public Tensor Loss(long step, int microBatch)
        {
            using Tensor loss = inner.Loss(step, microBatch);
            return PenalisedLoss(loss, taps, schedule.Factor(step + 1));
        }
    }

    private sealed class Log(IReadOnlyList<ActivationTap> taps, ActivationPenaltySchedule schedule, int every, IProgressSink progress) : ITrainingHook
    {
        public string Name => "prosparse";

        public void AfterStep(TrainingStep step)
        {
            if (step.Index % every == 0)
            {
                progress.Report("activation penalty factor", step.Index, schedule.Factor(step.Index + 1));
                progress.Report("activation sparsity", step.Index, taps.Average(t => t.Sparsity));
            }

            foreach (ActivationTap tap in taps)
            {
                tap.Reset();
            }
        }
    }
}
