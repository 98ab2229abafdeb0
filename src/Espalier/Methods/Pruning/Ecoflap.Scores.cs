using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

// Stage 1: the importance of tensors over the whole model, by forward passes or by gradients.
public sealed partial class Ecoflap
{
    /// <summary>
    /// The zeroth-order importance of every tensor (MEZO): one tensor at a time is moved along random directions and the
    /// loss is read on both sides. Only forward passes, so inference-only models qualify. Put the model in eval mode first.
    /// </summary>
    /// <param name="weights">Name and weight of every prunable tensor. Each is changed while it is scored and restored bit for bit.</param>
    /// <param name="batches">How many calibration batches (32 samples in the paper).</param>
    /// <param name="loss">The loss of a batch, from 0, at the present weights; accumulate it in double.</param>
    /// <param name="seed">The seed of the directions: each is drawn from (seed, tensor, batch, draw) and never stored.</param>
    /// <param name="options">Step, draws and kind; the paper's where null.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Stops between passes.</param>
    /// <returns>The score of every tensor by name, for <see cref="WithScores(IReadOnlyDictionary{string, double})"/>.</returns>
    public static IReadOnlyDictionary<string, double> ScoreZerothOrder(
        IReadOnlyList<(string Name, Tensor Weight)> weights, int batches, Func<int, double> loss, Seed seed,
        ZerothOrderOptions? options = null, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        options ??= new ZerothOrderOptions();
        using IProgressTask? task = progress?.Begin("scoring tensors", weights.Count, "tensor");
        var scores = new Dictionary<string, double>(StringComparer.Ordinal);
        foreach ((string name, Tensor weight) in weights)
        {
            task?.Describe(name);
            double gradient = ProjectedGradientSum(weight, batches, options.Draws, options.Epsilon, loss,
                (batch, draw) =>
                {
                    cancellation.ThrowIfCancellationRequested();
                    return Direction(weight, seed, name, batch, draw);
                }, name);
            scores.Add(name, ZerothOrderImportance(weight, gradient, options.Score));
            task?.Advance();
        }

        return scores;
    }

    /// <summary>Σ over batches and draws of |L(W + εz) − L(W − εz)| / 2ε. Nothing is divided by their number.</summary>
    /// <param name="weight">W, changed in place and restored bit for bit, also when the loss throws.</param>
    /// <param name="batches">B.</param>
    /// <param name="draws">k, directions per batch.</param>
    /// <param name="epsilon">ε.</param>
    /// <param name="loss">The loss of a batch at the present weights.</param>
    /// <param name="direction">z of W's shape for (batch, draw); disposed here.</param>
    /// <param name="name">The tensor's name, for messages.</param>
    public static double ProjectedGradientSum(Tensor weight, int batches, int draws, double epsilon, Func<int, double> loss, Func<int, int, Tensor> direction, string name = "the tensor")
    {
        EspalierException.Require(batches > 0 && draws > 0 && epsilon > 0 && double.IsFinite(epsilon), $"{batches} batches, {draws} draws and a step of {epsilon} measure nothing; all must be positive.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor original = weight.detach().clone();
        double sum = 0;
        try
        {
            for (int b = 0; b < batches; b++)
            {
                for (int j = 0; j < draws; j++)
                {
                    using var step = NewDisposeScope();
                    Tensor offset = direction(b, j).to(weight.dtype, weight.device) * epsilon;
                    weight.copy_(original + offset);
                    double up = loss(b);
                    weight.copy_(original - offset);
                    double down = loss(b);
                    double gradient = Math.Abs(up - down) / (2 * epsilon);
                    EspalierException.Require(double.IsFinite(gradient), $"The loss of batch {b} is not finite when {name} moves by {epsilon}; take a smaller step, or check the model and the batch.");
                    sum += gradient;
                }
            }
        }
        finally
        {
            weight.copy_(original);
        }

        return sum;
    }

    /// <summary>The importance of a whole tensor from its accumulated projected gradient: g, Σ|W|·g, or Σ W²·g².</summary>
    /// <param name="weight">W, any shape.</param>
    /// <param name="gradient">g, not negative.</param>
    /// <param name="kind">Which of the three.</param>
    public static double ZerothOrderImportance(Tensor weight, double gradient, EcoflapScore kind)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor W = weight.detach().to(ScalarType.Float64);
        return kind switch
        {
            EcoflapScore.GradMagAbs => W.abs().sum().item<double>() * gradient,
            EcoflapScore.GradMagSquare => W.square().sum().item<double>() * gradient * gradient,
            _ => gradient,
        };
    }

    /// <summary>First order: the elementwise importance mean|g|, |W|·mean|g| or W²·mean(g²), means over batches.</summary>
    /// <param name="weight">W, any shape.</param>
    /// <param name="gradients">The gradient of every batch's mean loss, of W's shape; read once, so that they may be made on the way.</param>
    /// <param name="kind">Which of the three.</param>
    /// <returns>Of W's shape, float32; a tensor's score is its sum.</returns>
    public static Tensor FirstOrderImportance(Tensor weight, IEnumerable<Tensor> gradients, EcoflapScore kind)
    {
        using var sum = new FirstOrderSum(weight, kind);
        foreach (Tensor gradient in gradients)
        {
            sum.Add(gradient);
        }

        return sum.Importance();
    }

    /// <summary>
    /// One step of the baseline <c>Real</c>: one threshold over the importances of all tensors, the largest
    /// ⌊n·(1−max)⌋ of each tensor protected. Kept is what exceeds the ⌊p·total⌋-th smallest, so ties at it go together.
    /// </summary>
    /// <param name="importances">One tensor each, any shapes, finite.</param>
    /// <param name="sparsity">p, the share to remove over all, in [0, 1].</param>
    /// <param name="maxSparsity">max, the share that a tensor may lose, in [0, 1]; 1 protects nothing.</param>
    /// <returns>One mask per tensor, bool, true stays. Where more weights are protected than may stay, the threshold is infinite and nothing does.</returns>
    public static IReadOnlyList<Tensor> GlobalMask(IReadOnlyList<Tensor> importances, double sparsity, double maxSparsity)
    {
        EspalierException.Require(sparsity is >= 0 and <= 1 && maxSparsity is >= 0 and <= 1, $"A sparsity of {sparsity} under a cap of {maxSparsity} is not possible; both are shares from 0 to 1.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        var shielded = new List<Tensor>();
        foreach (Tensor importance in importances)
        {
            EspalierException.Require(importance.isfinite().all().item<bool>(), $"The importances of tensor {shielded.Count} hold NaN or infinite values; its weights or its gradients are damaged.");
            long n = importance.numel(), top = (long)Math.Floor(n * (1 - maxSparsity));
            Tensor flat = importance.detach().reshape(-1);
            shielded.Add(top == 0 ? flat : flat.masked_fill(flat.ge(flat.kthvalue(n - top + 1, 0, false).values), double.PositiveInfinity));
        }

        Tensor all = cat(shielded);
        long count = (long)Math.Floor(sparsity * all.numel());
        Tensor threshold = count == 0 ? tensor(double.NegativeInfinity) : all.kthvalue(count, 0, false).values;
        return [.. shielded.Zip(importances, (s, original) => (s > threshold).reshape(original.shape).MoveToOuterDisposeScope())];
    }

    /// <summary>The share that the baseline <c>Real</c> has removed after one of its steps: p_i = s^(n/i).</summary>
    /// <param name="sparsity">s, in [0, 1).</param>
    /// <param name="step">i, from 1 to n.</param>
    /// <param name="steps">n; 3 as published.</param>
    public static double GlobalSparsityAfterStep(double sparsity, int step, int steps = 3)
    {
        MaskSelection.PruneCount(0, sparsity);
        EspalierException.Require(step >= 1 && step <= steps, $"Step {step} of {steps} does not exist; steps count from 1.");
        return Math.Pow(sparsity, (double)steps / step);
    }

    /// <summary>The direction z ~ N(0, 1) of one draw, a pure function of its arguments.</summary>
    private static Tensor Direction(Tensor weight, Seed seed, string name, int batch, int draw)
    {
        using Generator generator = seed.Generator($"ecoflap {name} {batch} {draw}");
        return randn(weight.shape, ScalarType.Float32, CPU, generator: generator);
    }
}

/// <summary>How zeroth-order scores are measured.</summary>
public sealed record ZerothOrderOptions
{
    /// <summary>ε, the step along a direction; 1e-3 as published (1e-4 to 1e-1).</summary>
    public double Epsilon { get; init; } = 1e-3;

    /// <summary>Directions per batch; 1 as published. More draws steady the ranks; a smaller step does not.</summary>
    public int Draws { get; init; } = 1;

    /// <summary>What counts; the projected gradient alone by default (MEZO-GradOnly).</summary>
    public EcoflapScore Score { get; init; } = EcoflapScore.GradOnly;
}
