using Espalier.Catalogue;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Retraining;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using Espalier.Training.Jobs;
using static TorchSharp.torch;

namespace Espalier.Methods.Merging;

/// <summary>What differs between the members of a soup beside their order of images.</summary>
public enum SoupVariation
{
    /// <summary>The order of images alone.</summary>
    PrunedSeed,

    /// <summary>The weight decay.</summary>
    WeightDecay,

    /// <summary>The length of the retraining.</summary>
    RetrainLength,

    /// <summary>The learning rate.</summary>
    RetrainSchedule,
}

/// <summary>How members become one model.</summary>
public enum SoupMerge
{
    /// <summary>The mean of all.</summary>
    Uniform,

    /// <summary>A greedy soup by the accuracy on held-out training images.</summary>
    Greedy,
}

/// <summary>
/// Sparse model soups (Zimmer, Spiegel, Pokutta, ICLR 2024): prune, retrain several copies under one mask, average them, and again. The
/// steps of the training are those of each copy and phase. Batch norms are recalibrated after every average.
/// </summary>
[Method("sms", "Sparse Model Soups: A Recipe for Improved Pruning via Model Averaging", Family = "Merging", Source = "arXiv 2306.16788, ICLR 2024",
    Summary = "Retrains several copies of a pruned net under one mask and averages them: better than one copy, at no cost in inference.",
    Fits = "vision nets: `espalier train --method sms`; magnitude pruning in phases, global or uniform; any optimiser")]
public sealed partial record Sms : IVisionMethod
{
    private const string Slug = "sms";

    /// <summary>The share of prunable weights (of convolutions and linear maps) that is zero in the end. Default 0.9.</summary>
    public double Sparsity { get; init => field = OptionCheck.Checked(value, value is > 0 and < 1, Slug, "sparsity", "between 0 and 1"); } = 0.9;

    /// <summary>Phases of pruning, retraining and merging. Default 1.</summary>
    public int Phases { get; init => field = OptionCheck.Checked(value, value >= 1, Slug, "number of phases", "at least 1"); } = 1;

    /// <summary>Copies that are retrained in each phase. Default 3.</summary>
    public int Models { get; init => field = OptionCheck.Checked(value, value >= 2, Slug, "number of models", "at least 2"); } = 3;

    /// <summary>What differs between the copies. Default the order of images.</summary>
    public SoupVariation Vary { get; init; } = SoupVariation.PrunedSeed;

    /// <summary>With another variation, its value for each copy: a weight decay, or a factor of the steps or of the learning rate.</summary>
    public IReadOnlyList<double>? Values { get; init; }

    /// <summary>How the copies become one. Default uniform.</summary>
    public SoupMerge Merge { get; init; } = SoupMerge.Uniform;

    /// <summary>Greedy: the share of training images that is held out. Default 0.1.</summary>
    public double HeldOut { get; init => field = OptionCheck.Checked(value, value is > 0 and < 1, Slug, "held-out share", "between 0 and 1"); } = 0.1;

    /// <summary>Which weights are ranked together. Default global.</summary>
    public MagnitudeSelector Selector { get; init; } = MagnitudeSelector.Global;

    /// <summary>The learning rates of the retraining, laid out from the training's schedule and rate. Default LLR.</summary>
    public RetrainingSchedule RetrainSchedule { get; init; } = RetrainingSchedule.LLR;

    /// <summary>The share of the training batches that recalibrates batch norms, as an exponential average with momentum 0.1. Default 1.</summary>
    public double RecalibrationShare { get; init => field = OptionCheck.Checked(value, value is >= 0 and <= 1, Slug, "recalibration share", "from 0 to 1"); } = 1;

    /// <summary>The learning rates of the dense training, step by step; null takes the training's schedule.</summary>
    public IReadOnlyList<double>? DenseRates { get; init; }

    /// <summary>The share of the remaining weights that each phase prunes, and the sparsity after each phase.</summary>
    /// <param name="goal">The sparsity after the last.</param>
    /// <param name="phases">How many phases there are.</param>
    /// <exception cref="EspalierException">Unless the goal is in [0, 1) and there is a phase.</exception>
    public static (double PerPhase, IReadOnlyList<double> Cumulative) PhaseRate(double goal, int phases)
    {
        OptionCheck.Checked(goal, goal is >= 0 and < 1, Slug, "sparsity", "from 0 up to but not including 1");
        OptionCheck.Checked(phases, phases >= 1, Slug, "number of phases", "at least 1");
        double rate = 1 - Math.Pow(1 - goal, 1.0 / phases);
        return (rate, [.. Enumerable.Range(1, phases).Select(t => 1 - Math.Pow(1 - rate, t))]);
    }

    /// <inheritdoc/>
    public bool UsesCrew => true;

    /// <inheritdoc/>
    public void Check(VisionModel model, TrainingOptions options)
    {
        EspalierException.Require(Vary is SoupVariation.PrunedSeed == Values is null, Values is null
            ? $"What differs between the models of the soup is {Vary}; give its value for each of the {Models} models as values."
            : "Values were given for the models of the soup, but only their seed differs; name what differs: weight_decay, retrain_length or retrain_schedule.");
        EspalierException.Require(Values is null || Values.Count == Models, $"{Values?.Count} values were given for {Models} models of the soup; give one for each.");
        EspalierException.Require(Values is null || Values.All(v => double.IsFinite(v) && (v > 0 || (v == 0 && Vary is SoupVariation.WeightDecay))), "The values of the soup's models must be positive numbers.");
        options.Validate();
        for (int i = 0; i < Models; i++)
        {
            (TrainingOptions own, _) = Member(i, options, new PruningDrop(1, 1, 1));
            own.Validate();
        }
    }

    /// <inheritdoc/>
    public VisionMethodResult Run(VisionMethodContext context, CancellationToken cancellation = default)
    {
        Check(context.Model, context.Options);
        using var scope = NewDisposeScope();
        (ImageTensors train, ImageTensors? heldOut) = Split(context);
        using ImageTensors? ours = heldOut is null ? null : train, validation = heldOut;
        double share = PhaseRate(Sparsity, Phases).PerPhase;
        VisionModel net = context.Model.Clone();
        Dictionary<string, Tensor> masks = MagnitudePruning.All(net);
        var figures = new List<(string, double)>();
        for (int phase = 1; phase <= Phases; phase++)
        {
            var members = new List<VisionModel>();
            try
            {
                double dropped = MagnitudePruning.Prune(net, masks, share, Selector, new Seed(context.Seed.For($"pruning of phase {phase}")));
                int now = phase;
                IEnumerable<TrainingJob> jobs = Enumerable.Range(0, Models).Select(i =>
                {
                    context.Progress.Say($"Phase {now} of {Phases}: model {i + 1} of {Models}.");
                    return Job(net, masks, context, train, now, i, share, dropped);
                });
                foreach (VisionModel member in context.TrainAll(jobs, cancellation))
                {
                    members.Add(member);
                }

                foreach ((string name, double value) in Measure(members, context))
                {
                    figures.Add((Phases == 1 ? name : $"{name}, phase {phase}", value));
                }

                VisionModel soup = Mix(members, masks, context, train, validation);
                net.Dispose();
                net = soup;
            }
            catch
            {
                net.Dispose();
                throw;
            }
            finally
            {
                members.ForEach(m => m.Dispose());
            }
        }

        return new VisionMethodResult(net, VisionMethodResult.Pack(masks), figures);
    }

    /// <summary>The retraining of a copy of a pruned net.</summary>
    /// <param name="pruned">The net, masks applied; it stays as it is.</param>
    /// <param name="masks">Its keep masks by weight name.</param>
    /// <param name="context">What training needs.</param>
    /// <param name="train">The images.</param>
    /// <param name="phase">The phase, from 1: part of the seed.</param>
    /// <param name="member">The copy, from 0: part of the seed.</param>
    /// <param name="share">The share of the remaining weights that was pruned.</param>
    /// <param name="dropped">The norm of the pruned weights over that of all parameters before.</param>
    public TrainingJob Job(VisionModel pruned, IReadOnlyDictionary<string, Tensor> masks, VisionMethodContext context, ImageTensors train, int phase, int member, double share, double dropped)
    {
        int dense = DenseRates?.Count ?? context.Options.Steps;
        (TrainingOptions options, RetrainingRates rates) = Member(member, context.Options, new PruningDrop(dropped, share, (double)context.Options.Steps / dense));
        return context.Job(pruned.Clone(), new Seed(context.Seed.For($"phase {phase}, model {member}")), masks, options, rates.Values, train);
    }

    /// <summary>Merges the copies of a phase and recalibrates the batch norms of what comes out.</summary>
    /// <param name="members">The copies.</param>
    /// <param name="masks">Their common keep masks.</param>
    /// <param name="context">Batch size and normalisation.</param>
    /// <param name="train">The images that recalibrate.</param>
    /// <param name="heldOut">Greedy: the images that decide.</param>
    /// <returns>The soup; the caller disposes it.</returns>
    public VisionModel Mix(IReadOnlyList<VisionModel> members, IReadOnlyDictionary<string, Tensor> masks, VisionMethodContext context, ImageTensors train, ImageTensors? heldOut = null)
    {
        IReadOnlyList<int> chosen = [.. Enumerable.Range(0, members.Count)];
        if (Merge is SoupMerge.Greedy)
        {
            EspalierException.Require(heldOut is not null, "A greedy soup needs held-out images to decide by.");
            double[] scores = [.. members.Select(m => ImageAccuracy.Evaluate(m, heldOut).Top1)];
            (chosen, double best) = ModelSoup.Greedy(scores, some =>
            {
                using VisionModel trial = Average(some);
                return ImageAccuracy.Evaluate(trial, heldOut).Top1;
            });
            context.Progress.Say(FormattableString.Invariant($"The greedy soup took {chosen.Count} of {members.Count} models: {best:0.00} % on {heldOut.Count} held-out images."));
        }

        return Average(chosen);

        VisionModel Average(IReadOnlyList<int> some)
        {
            if (some.Count == 1)
            {
                return members[some[0]].Clone();
            }

            VisionModel soup = ModelSoup.Average([.. some.Select(i => members[i])], [.. some.Select(_ => masks)]);
            Recalibrate(soup, context.Batches(train), RecalibrationShare);
            return soup;
        }
    }

    /// <summary>Measures batch norms anew on the first batches, in order, as an exponential average that starts at mean 0 and variance 1.</summary>
    /// <param name="net">The net.</param>
    /// <param name="batches">The training images.</param>
    /// <param name="share">The share of the batches, rounded down; with none the statistics stay 0 and 1.</param>
    public static void Recalibrate(VisionModel net, ImageBatches batches, double share)
    {
        int all = (batches.Data.Count + batches.Batch - 1) / batches.Batch, wanted = RecalibrationBatches(all, share);
        BatchNormRecalibration.Run(net, wanted == 0 ? [] : batches.InOrder(Math.Min(batches.Data.Count, wanted * batches.Batch), net.Device).Select(b =>
        {
            b.Labels.Dispose();
            return b.Images;
        }), RecalibrationMomentum);
    }

    private const double RecalibrationMomentum = 0.1;

    private static int RecalibrationBatches(int all, double share) => (int)(share * all);

    /// <summary>How a copy is trained: its options, and its learning rates step by step.</summary>
    private (TrainingOptions Options, RetrainingRates Rates) Member(int index, TrainingOptions options, PruningDrop drop)
    {
        double? value = Values?[index];
        TrainingOptions own = Vary switch
        {
            SoupVariation.WeightDecay => options with { WeightDecay = value!.Value, Nesterov = options.Nesterov && value > 0 },
            SoupVariation.RetrainLength => options with { Steps = Math.Max(1, (int)Math.Round(options.Steps * value!.Value)) },
            _ => options,
        };
        IReadOnlyList<double> dense = DenseRates ?? [.. Enumerable.Range(0, options.Steps).Select(k => LearningRateSchedule.At(options, k))];
        double factor = Vary is SoupVariation.RetrainSchedule ? value!.Value : 1;
        return (own, RetrainingRates.Of(RetrainSchedule, [.. dense.Select(r => r * factor)], own.Steps, drop));
    }

    private (ImageTensors Train, ImageTensors? HeldOut) Split(VisionMethodContext context)
    {
        if (Merge is not SoupMerge.Greedy)
        {
            return (context.Images, null);
        }

        int count = context.Images.Count, held = (int)(count * HeldOut);
        EspalierException.Require(held >= 1 && held < count, $"Of {count} training images a share of {FormattableString.Invariant($"{HeldOut}")} cannot be held out for the greedy soup; give more images or another share.");
        int[] order = [.. Enumerable.Range(0, count)];
        context.Seed.Random("held-out images").Shuffle(order);
        return (context.Images.Take([.. order.Skip(held).Order()]), context.Images.Take([.. order.Take(held).Order()]));
    }

    private static IEnumerable<(string Name, double Value)> Measure(IReadOnlyList<VisionModel> members, VisionMethodContext context)
    {
        using var scope = NewDisposeScope();
        SoupDistances apart = ModelSoup.Distances([.. members.Select(m => cat([.. m.Parameters.Select(p => p.Value.detach().flatten())]))]);
        List<(string, double)> figures = [("largest distance of two models", apart.MaxL2), ("largest angle of two models, degrees", apart.MaxAngle)];
        if (context.Test is { } test)
        {
            double[] each = [.. members.Select(m => ImageAccuracy.Evaluate(m, test).Top1)];
            figures.AddRange([("mean accuracy of the models", each.Average()), ("best accuracy of the models", each.Max())]);
        }

        return figures;
    }
}
