using Espalier.Catalogue;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Retraining;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What one step of <see cref="Mfac"/> did.</summary>
/// <param name="Weight">The new weights [d], float64, 0 where pruned.</param>
/// <param name="Keep">The new keep mask [d], bool.</param>
/// <param name="Score">w²/(2·[F⁻¹]qq) before the step [d], float64; 0 where it was pruned before.</param>
/// <param name="Dropped">How many weights were pruned.</param>
public sealed record ObsStep(Tensor Weight, Tensor Keep, Tensor Score, long Dropped);

/// <summary>
/// M-FAC (Frantar, Kurtic, Alistarh, NeurIPS 2021) as a pruner: optimal brain surgeon over all layers at once with the inverse Fisher
/// matrix of a few gradients. The weights that stay move to make up for those that go. As an optimiser it is <see cref="MfacOptimizer"/>.
/// </summary>
[Method("mfac", "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information", Family = "Pruning", Source = "arXiv 2107.03356, NeurIPS 2021",
    Summary = "Optimal brain surgeon with the inverse Fisher matrix of stored gradients: one-shot or gradual pruning of trained nets, and a second-order optimiser.",
    Fits = "vision nets: `espalier train --method mfac`, unstructured, one ranking over all layers; `espalier train --optimizer mfac` for any model")]
public sealed partial record Mfac : IVisionMethod
{
    private const string Slug = "mfac";
    private const double CountGuard = 1e-6; // the original counts in float32: 11.9999999 is 12

    /// <summary>The share of the prunable weights that is zero in the end. Default 0.75.</summary>
    public double Sparsity { get; init => field = OptionCheck.Checked(value, value is > 0 and < 1, Slug, "sparsity", "between 0 and 1"); } = 0.75;

    /// <summary>Gradients in the Fisher matrix. Default 64.</summary>
    public int Gradients { get; init => field = OptionCheck.Checked(value, value >= 1, Slug, "number of gradients", "at least 1"); } = 64;

    /// <summary>Images whose mean loss gives one gradient. Default 32.</summary>
    public int GradientBatch { get; init => field = OptionCheck.Checked(value, value >= 1, Slug, "gradient batch", "at least 1"); } = 32;

    /// <summary>λ, added to the diagonal. Default 1e-5.</summary>
    public double Damping { get; init => field = OptionCheck.Checked(value, value > 0 && double.IsFinite(value), Slug, "damping", "a positive number"); } = 1e-5;

    /// <summary>Kept weights per block of the matrix; −1 takes it whole. Default 128.</summary>
    public int BlockSize { get; init => field = OptionCheck.Checked(value, value is -1 or > 0, Slug, "block size", "positive, or -1 for one block"); } = 128;

    /// <summary>Steps on the way to a target, each with new gradients. Default 16.</summary>
    public int Recomputations { get; init => field = OptionCheck.Checked(value, value >= 1, Slug, "number of recomputations", "at least 1"); } = 16;

    /// <summary>Targets on the way, each followed by an equal share of the training's steps; 0 (default) prunes at once and trains nothing.</summary>
    public int Rounds { get; init => field = OptionCheck.Checked(value, value >= 0, Slug, "number of rounds", "0 or more"); }

    /// <summary>Whether the weights that stay make up for those that go. Default true.</summary>
    public bool UpdateWeights { get; init; } = true;

    /// <summary>Words of which a prunable layer's name has one. Default <c>conv</c> and <c>fc</c>, as in the paper's code, or all layers where no name has one.</summary>
    public IReadOnlyList<string>? Layers { get; init; }

    /// <summary>The sparsities on the way from one to another, geometric in what remains.</summary>
    /// <param name="from">The sparsity before, in [0, 1).</param>
    /// <param name="to">The last, not below.</param>
    /// <param name="steps">How many.</param>
    /// <exception cref="EspalierException">For values outside.</exception>
    public static IReadOnlyList<double> Ladder(double from, double to, int steps)
    {
        EspalierException.Require(steps >= 1 && from is >= 0 and < 1 && to >= from && to <= 1, FormattableString.Invariant($"There is no way from a sparsity of {from} to {to} in {steps} steps; sparsities must rise within 0 and 1."));
        return [.. Enumerable.Range(1, steps).Select(j => 1 - ((1 - from) * Math.Pow((1 - to) / (1 - from), (double)j / steps)))];
    }

    /// <summary>One step of optimal brain surgeon to a sparsity: the smallest scores go, all in one joint product.</summary>
    /// <param name="weight">The weights [d].</param>
    /// <param name="keep">Which are left [d], bool.</param>
    /// <param name="gradients">[m, d]; what is pruned does not count.</param>
    /// <param name="sparsity">The wanted share of zeros.</param>
    /// <param name="damping">λ.</param>
    /// <param name="blockSize">Kept weights per block; −1 for one block.</param>
    /// <param name="updateWeights">Whether the weights that stay make up for those that go.</param>
    /// <returns>Tensors in the caller's scope.</returns>
    /// <exception cref="EspalierException">When the sparsity is below what there is, or leaves no weight.</exception>
    public static ObsStep Step(Tensor weight, Tensor keep, Tensor gradients, double sparsity, double damping, long blockSize, bool updateWeights = true)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        Tensor kept = keep.to(ScalarType.Bool).nonzero().squeeze(1);
        (long all, long left) = (weight.numel(), kept.numel());
        double current = 1 - ((double)left / all);
        EspalierException.Require(sparsity >= current - (CountGuard / all), FormattableString.Invariant($"{current:P2} of the weights are zero already, more than the wanted {sparsity:P2}; ask for a higher sparsity."));
        long dropped = Math.Max(0, (long)((all * (sparsity - current)) + CountGuard));
        EspalierException.Require(dropped < left, FormattableString.Invariant($"A sparsity of {sparsity:P2} leaves none of the {left} weights; ask for a lower one."));
        Tensor w = weight.detach().to(ScalarType.Float64).index_select(0, kept);
        using var fisher = new InverseFisher(gradients.index_select(1, kept), damping, blockSize);
        Tensor diagonal = fisher.Diagonal();
        Tensor score = w.square() / (diagonal * 2);
        double[] scores = score.cpu().data<double>().ToArray();
        long[] go = [.. Enumerable.Range(0, scores.Length).OrderBy(i => scores[i]).Take((int)dropped).Select(i => (long)i)];
        Tensor gone = zeros([left], ScalarType.Bool, w.device).index_fill_(0, tensor(go, ScalarType.Int64, w.device), true);
        Tensor moved = updateWeights ? w + fisher.Multiply((w / -diagonal).masked_fill(gone.logical_not(), 0)) : w;
        Tensor newKeep = zeros([all], ScalarType.Bool, w.device).index_copy(0, kept, gone.logical_not());
        Tensor full = zeros([all], ScalarType.Float64, w.device);
        return new ObsStep(
            full.index_copy(0, kept, moved.masked_fill(gone, 0)).MoveToOuterDisposeScope(), newKeep.MoveToOuterDisposeScope(), full.index_copy(0, kept, score).MoveToOuterDisposeScope(), dropped);
    }

    /// <inheritdoc/>
    public void Check(VisionModel model, TrainingOptions options)
    {
        EspalierException.Require(Rounds <= options.Validate().Steps, $"{Rounds} rounds of pruning do not fit into {options.Steps} steps of training; train longer or prune in fewer rounds.");
        Prunable(model);
    }

    /// <inheritdoc/>
    public VisionMethodResult Run(VisionMethodContext context, CancellationToken cancellation = default)
    {
        Check(context.Model, context.Options);
        VisionModel net = context.Model.Clone();
        try
        {
            using var scope = NewDisposeScope();
            Dictionary<string, Tensor> masks = Prunable(net).ToDictionary(l => l.WeightName, l => l.Weight.detach().ne(0));
            int rounds = Math.Max(1, Rounds), draws = 0;
            double before = Zeros(masks);
            foreach ((int round, double target) in Ladder(before, Sparsity, rounds).Index())
            {
                foreach (double step in Ladder(Zeros(masks), target, Recomputations))
                {
                    Prune(net, masks, step, context, draws++, cancellation);
                }

                if (Rounds > 0)
                {
                    int steps = (context.Options.Steps * (round + 1) / rounds) - (context.Options.Steps * round / rounds);
                    context.Train(net, new Seed(context.Seed.For($"round {round}")), masks, context.Options with { Steps = steps }, cancellation: cancellation);
                }
            }

            return new VisionMethodResult(net, VisionMethodResult.Pack(masks), [("gradients", draws * Gradients), .. Measure(net, context)]);
        }
        catch
        {
            net.Dispose();
            throw;
        }
    }

    /// <summary>Prunes a net in place to a sparsity, with gradients of its own.</summary>
    /// <param name="net">The net.</param>
    /// <param name="masks">The keep masks of its prunable weights by name; new tensors, in the caller's scope, take their place.</param>
    /// <param name="sparsity">The wanted share of zeros.</param>
    /// <param name="context">Images and seed.</param>
    /// <param name="draw">Which draw of batches.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public void Prune(VisionModel net, Dictionary<string, Tensor> masks, double sparsity, VisionMethodContext context, int draw, CancellationToken cancellation)
    {
        using Tensor gradients = Collect(net, context, draw, cancellation);
        Apply(net, masks, gradients, sparsity);
    }

    /// <summary>Prunes a net in place to a sparsity, with given gradients.</summary>
    /// <param name="net">The net.</param>
    /// <param name="masks">As in <see cref="Prune"/>.</param>
    /// <param name="gradients">What <see cref="Collect"/> gave.</param>
    /// <param name="sparsity">The wanted share of zeros.</param>
    public void Apply(VisionModel net, Dictionary<string, Tensor> masks, Tensor gradients, double sparsity)
    {
        using var frozen = no_grad();
        IReadOnlyList<WeightLayer> layers = Prunable(net);
        using var scope = NewDisposeScope();
        Tensor keep = cat([.. layers.Select(l => masks[l.WeightName].flatten())]);
        ObsStep step = Step(cat([.. layers.Select(l => l.Weight.detach().flatten())]), keep, gradients, sparsity, Damping, BlockSize, UpdateWeights);
        long from = 0;
        foreach (WeightLayer layer in layers)
        {
            long count = layer.Weight.numel();
            layer.Weight.copy_(step.Weight.narrow(0, from, count).reshape(layer.Weight.shape));
            masks[layer.WeightName] = step.Keep.narrow(0, from, count).reshape(layer.Weight.shape).clone().MoveToOuterDisposeScope();
            from += count;
        }
    }

    /// <summary>Gradients of the cross-entropy of batches, in evaluation mode.</summary>
    /// <param name="net">The net.</param>
    /// <param name="context">Images and seed.</param>
    /// <param name="draw">Which draw of batches.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>[<see cref="Gradients"/>, prunable weights], in the caller's scope.</returns>
    public Tensor Collect(VisionModel net, VisionMethodContext context, int draw, CancellationToken cancellation)
    {
        using var scope = NewDisposeScope();
        IReadOnlyList<WeightLayer> layers = Prunable(net);
        var batches = new ImageBatches(context.Images, Math.Min(GradientBatch, context.Images.Count)) { Mean = net.Config.Mean, Deviation = net.Config.Deviation, Seed = new Seed(context.Seed.For($"gradients {draw}")) };
        Tensor gradients = empty([Gradients, layers.Sum(l => l.Weight.numel())], ScalarType.Float32, net.Device);
        bool training = net.Training;
        net.Training = false;
        using IProgressTask task = context.Progress.Begin("collecting gradients", Gradients, "gradient");
        try
        {
            for (int i = 0; i < Gradients; i++)
            {
                cancellation.ThrowIfCancellationRequested();
                using var step = NewDisposeScope();
                Clear(net);
                (Tensor images, Tensor labels) = batches.Shuffled(i, net.Device);
                nn.functional.cross_entropy(net.Forward(images), labels).backward();
                gradients[i].copy_(cat([.. layers.Select(l => l.Weight.grad!.flatten())]));
                task.Advance();
            }
        }
        finally
        {
            net.Training = training;
            Clear(net);
        }

        return gradients.MoveToOuterDisposeScope();
    }

    /// <summary>The layers whose weights are pruned.</summary>
    /// <exception cref="EspalierException">When the words name none.</exception>
    public IReadOnlyList<WeightLayer> Prunable(VisionModel net)
    {
        WeightLayer[] found = [.. net.Weights.Where(w => (Layers ?? ["conv", "fc"]).Any(word => w.Name.Contains(word, StringComparison.Ordinal)))];
        EspalierException.Require(found.Length > 0 || Layers is null, $"No layer has any of the words {string.Join(", ", Layers ?? [])} in its name; the net has {string.Join(", ", net.Weights.Take(6).Select(w => w.Name))}, ….");
        return found.Length > 0 ? found : net.Weights;
    }

    private static void Clear(VisionModel net)
    {
        using var scope = NewDisposeScope();
        foreach ((_, TorchSharp.Modules.Parameter value) in net.Parameters)
        {
            value.grad = null;
        }
    }

    private static double Zeros(Dictionary<string, Tensor> masks)
    {
        using var scope = NewDisposeScope();
        return 1 - (masks.Values.Sum(m => m.sum().item<long>()) / (double)masks.Values.Sum(m => m.numel()));
    }

    private static IEnumerable<(string Name, double Value)> Measure(VisionModel net, VisionMethodContext context) => context.Test is { } test
        ? [("accuracy before", ImageAccuracy.Evaluate(context.Model, test).Top1), ("accuracy after", ImageAccuracy.Evaluate(net, test).Top1)]
        : [];
}
