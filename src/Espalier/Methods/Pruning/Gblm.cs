using Espalier.Catalogue;
using Espalier.Pruning.Measuring;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>Which terms the score of <see cref="Gblm"/> is made of.</summary>
public enum GblmMode
{
    /// <summary>|W|·√s + |W|·G: activations and gradients.</summary>
    Sum,

    /// <summary>|W|·G: gradients alone.</summary>
    Gradient,

    /// <summary>|W|·√s / (G + 1e-8): the published control, in which a large gradient makes a weight unimportant.</summary>
    Inverse,
}

/// <summary>How the gradients of single samples become one number per weight.</summary>
public enum GradientNorm
{
    /// <summary>Σ_k |g_k|.</summary>
    L1,

    /// <summary>√(Σ_k g_k²): rare large gradients count more.</summary>
    L2,
}

/// <summary>
/// GBLM-Pruner: adds first-order information to Wanda. The importance of a weight is |W|·‖X_j‖ + |W|·α·G, where G is the
/// norm over calibration samples of the loss gradient of the dense model; ranked within each output row.
/// </summary>
/// <remarks>
/// Das, Sun, Ma, Shen, "Beyond Size: How Gradients Shape Pruning Decisions in Large Language Models". The gradients are
/// taken once, of the dense model: a plan measures them itself, block by block; for any other model
/// <see cref="MeasureGradients"/> and <see cref="WithGradients(Func{string, Tensor})"/> do.
/// The published code fixes α = 100, which also kept half precision from underflow; where the loss is low, gradients are
/// then so small that the score is Wanda's. By default α makes both terms equally large in the median of every layer.
/// </remarks>
[Method("gblm", "Beyond Size: How Gradients Shape Pruning Decisions in Large Language Models",
    Family = "Pruning",
    Source = "Das, Sun, Ma, Shen, arXiv 2311.04902",
    Summary = "Wanda's score plus |weight| × gradient norm: better choices for one backward pass over the calibration text.",
    Fits = "criterion; unstructured (row, layer, global) or N:M; any allocator, repair and retraining; measures gradients of the dense model first")]
public sealed partial class Gblm : IMaskingCriterion, IMeasuredPart
{
    private const double InverseFloor = 1e-8;

    private Func<string, Tensor?>? _gradients;

    /// <summary>The terms of the score; the published sum by default.</summary>
    public GblmMode Mode { get; init; } = GblmMode.Sum;

    /// <summary>
    /// α, the weight of the gradient term relative to the norm of the raw gradients; 100 equals the published code. Null
    /// (the default) takes, layer by layer, the α at which the medians of both terms are equal.
    /// </summary>
    public double? Scale
    {
        get;
        init
        {
            EspalierException.Require(value is null || (value > 0 && double.IsFinite(value.Value)), $"A gradient scale of {value} is not possible; use a positive number (the paper's code takes 100), or leave it out to balance both terms.");
            field = value;
        }
    }

    /// <summary>How the gradients of single calibration sequences become one number per weight; L2 by default, the published code offers both.</summary>
    public GradientNorm Norm { get; init; } = GradientNorm.L2;

    /// <summary>Wanda's variant of the mask (a share of each row's total score instead of a count). Off by default. Unstructured only.</summary>
    public bool UseVariant { get; init; }

    /// <inheritdoc/>
    public bool HasOwnCount => UseVariant;

    /// <inheritdoc/>
    public CalibrationNeeds Needs => Mode is GblmMode.Gradient ? CalibrationNeeds.None : CalibrationNeeds.InputNorms;

    /// <inheritdoc/>
    public Scope DefaultScope => Scope.Row;

    /// <summary>The same criterion with its gradients.</summary>
    /// <param name="norms">From the name of a weight to its raw gradient norm G [out, in] (scale 1), or null where there is none; asked once per layer, so that norms may be read from disk.</param>
    public Gblm WithGradients(Func<string, Tensor?> norms) =>
        new() { Mode = Mode, Scale = Scale, Norm = Norm, UseVariant = UseVariant, _gradients = norms };

    /// <inheritdoc cref="WithGradients(Func{string, Tensor})"/>
    public Gblm WithGradients(IReadOnlyDictionary<string, Tensor> norms) => WithGradients(name => norms.GetValueOrDefault(name));

    /// <inheritdoc/>
    public bool IsMeasured => _gradients is not null;

    /// <inheritdoc/>
    public void Measure(MeasuringContext context)
    {
        var sums = new Dictionary<string, GradientSum>(StringComparer.Ordinal);
        try
        {
            new GradientPass(context, sequencesAtOnce: 1, context.Calibration.Length).Run(
                block => !context.Results.Has($"block-{block}"),
                block => block.Linears.ToList().ForEach(l => sums[l.Name] = new GradientSum(Norm)),
                (linear, gradient, sample) => sums[linear.Name].Add(Checked(gradient, linear.Name, sample)),
                block =>
                {
                    using var scope = NewDisposeScope();
                    context.Results.Save($"block-{block.Index}", block.Linears.Select(l => (l.Name, sums[l.Name].Norm())));
                    Release();
                });
        }
        finally
        {
            Release();
        }

        void Release()
        {
            foreach (GradientSum sum in sums.Values)
            {
                sum.Dispose();
            }

            sums.Clear();
        }
    }

    /// <inheritdoc/>
    public object With(Measurements results) => WithGradients(results.Read);

    /// <inheritdoc/>
    public double Passes(int layers, int sequences) => 3.0 * sequences;

    /// <inheritdoc/>
    public Tensor Score(LayerContext layer)
    {
        using var scope = NewDisposeScope();
        Tensor G = _gradients?.Invoke(layer.Name)
            ?? throw new EspalierException($"GBLM needs the gradients of {layer.Name}; measure them on the dense model (Gblm.MeasureGradients, or a plan) before pruning, and hand them over with WithGradients.");
        EspalierException.Require(Mode is GblmMode.Gradient || layer.InputNorms is not null, $"GBLM needs the input norms of {layer.Name}; give the plan calibration text.");
        double scale = Scale ?? (Mode is GblmMode.Sum ? BalanceTerms(layer.Weight, layer.InputNorms!, G, layer.Name).Scale : 1);
        return Score(layer.Weight, layer.InputNorms, G * scale, Mode, layer.Name).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor? Keep(LayerContext layer, Pattern pattern, Scope scope, double sparsity)
    {
        if (!UseVariant)
        {
            return null;
        }

        EspalierException.Require(pattern is Pattern.UnstructuredPattern && scope is Scope.Row,
            $"GBLM's variant ranks unstructured weights within rows, but the plan asks for the pattern {pattern} with the scope {scope.ToString().ToLowerInvariant()}; turn use_variant off or change the pattern.");
        using var disposing = NewDisposeScope();
        return Wanda.MaskVariant(Score(layer), sparsity, layer.Name).Keep.MoveToOuterDisposeScope();
    }

    /// <summary>The score of every weight.</summary>
    /// <param name="W">[R, C].</param>
    /// <param name="scalerRow">Wanda's s [C]; not used by <see cref="GblmMode.Gradient"/>, where it may be null.</param>
    /// <param name="gradientNorm">G [R, C], already scaled by α.</param>
    /// <param name="mode">The terms.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <returns>S [R, C], float32.</returns>
    public static Tensor Score(Tensor W, Tensor? scalerRow, Tensor gradientNorm, GblmMode mode = GblmMode.Sum, string layer = "the layer")
    {
        RequireSameShape(W, gradientNorm, layer);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor G = gradientNorm.detach().to(ScalarType.Float32, W.device).abs();
        Tensor magnitude = W.detach().to(ScalarType.Float32).abs();
        Tensor score = mode switch
        {
            GblmMode.Gradient => magnitude * G,
            GblmMode.Inverse => Wanda.Score(W, Norms(scalerRow, layer), layer) * (G + InverseFloor).reciprocal(),
            _ => Wanda.Score(W, Norms(scalerRow, layer), layer) + magnitude * G,
        };
        return score.MoveToOuterDisposeScope();
    }

    /// <summary>G over calibration samples: l1 = Σ_k |scale·g_k| and l2 = √(Σ_k (scale·g_k)²). Not divided by their number.</summary>
    /// <param name="gradients">One gradient per sample, [S, R, C].</param>
    /// <param name="scale">α; 100 in the published code.</param>
    /// <returns>Both norms [R, C], float32.</returns>
    public static (Tensor L1, Tensor L2) GradientNorms(Tensor gradients, double scale)
    {
        EspalierException.Require(gradients.dim() >= 2 && gradients.shape[0] > 0, $"Gradients of shape [{string.Join(", ", gradients.shape)}] hold no sample; stack them as [samples, out, in].");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using var sum = new GradientSum(GradientNorm.L1);
        using var squares = new GradientSum(GradientNorm.L2);
        for (long k = 0; k < gradients.shape[0]; k++)
        {
            Tensor g = gradients[k].to(ScalarType.Float32) * scale;
            sum.Add(g);
            squares.Add(g);
        }

        return (sum.Norm().MoveToOuterDisposeScope(), squares.Norm().MoveToOuterDisposeScope());
    }

    /// <summary>
    /// The gradient pass: G of every weight over samples taken one at a time, for any differentiable loss. Run it on the
    /// dense model, with dropout off; the weights, and whatever their .grad holds, stay as they are.
    /// </summary>
    /// <param name="weights">Name and parameter of every prunable weight; they must require gradients.</param>
    /// <param name="samples">How many samples (128 sequences in the paper, 32 windows for small models).</param>
    /// <param name="loss">The scalar loss of sample k: for language models the mean next-token cross-entropy, padding not counted.</param>
    /// <param name="norm">The norm over samples.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Stops between samples.</param>
    /// <returns>The raw norms (scale 1) [out, in] by name, float32, in the caller's scope.</returns>
    /// <exception cref="EspalierException">For a weight that is frozen, does not take part in the loss, or has a gradient of zeros or non-finite numbers.</exception>
    public static IReadOnlyDictionary<string, Tensor> MeasureGradients(
        IReadOnlyList<(string Name, Tensor Weight)> weights, int samples, Func<int, Tensor> loss, GradientNorm norm = GradientNorm.L2,
        IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        EspalierException.Require(samples > 0 && weights.Count > 0, $"Gradients of {weights.Count} weights over {samples} samples cannot be measured; both must be at least 1.");
        foreach ((string name, Tensor weight) in weights)
        {
            EspalierException.Require(weight.requires_grad, $"{name} is frozen, so it has no gradient to prune by; let it require gradients, or leave it out.");
        }

        using var scope = NewDisposeScope();
        using IProgressTask? task = progress?.Begin("measuring gradients", samples, "sample");
        GradientSum[] sums = [.. weights.Select(_ => new GradientSum(norm))];
        try
        {
            for (int k = 0; k < samples; k++)
            {
                cancellation.ThrowIfCancellationRequested();
                using var step = NewDisposeScope();
                IList<Tensor> gradients = autograd.grad([loss(k)], [.. weights.Select(w => w.Weight)], allow_unused: true);
                using var _ = no_grad();
                for (int i = 0; i < sums.Length; i++)
                {
                    sums[i].Add(Checked(gradients[i], weights[i].Name, k));
                }

                task?.Advance();
            }

            using var __ = no_grad();
            return weights.Zip(sums).ToDictionary(p => p.First.Name, p => p.Second.Norm().MoveToOuterDisposeScope());
        }
        finally
        {
            Array.ForEach(sums, s => s.Dispose());
        }
    }

    /// <summary>How the two terms of the score compare in one layer, and the α that makes their medians equal.</summary>
    /// <param name="W">[R, C].</param>
    /// <param name="scalerRow">Wanda's s [C].</param>
    /// <param name="gradientNorm">The raw G [R, C].</param>
    /// <param name="layer">The layer's name, for messages.</param>
    public static GblmBalance BalanceTerms(Tensor W, Tensor scalerRow, Tensor gradientNorm, string layer = "the layer")
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor activation = Wanda.Score(W, scalerRow, layer);
        Tensor gradient = Score(W, null, gradientNorm, GblmMode.Gradient, layer);
        (double a, double g) = (Middle(activation), Middle(gradient));

        // Where one term is 0 throughout there is nothing to balance.
        double scale = a > 0 && g > 0 && double.IsFinite(a / g) ? a / g : 1;
        double meanA = Mean(activation), meanG = Mean(gradient) * scale;
        return new GblmBalance(scale, a, g, meanA + meanG > 0 ? meanG / (meanA + meanG) : 0);
    }

    /// <summary>The Jaccard index of two masks' pruned weights: 1 where they prune the same, 0 where nothing in common.</summary>
    /// <param name="keepA">[out, in], bool.</param>
    /// <param name="keepB">[out, in], bool.</param>
    public static double PrunedOverlap(Tensor keepA, Tensor keepB)
    {
        using var scope = NewDisposeScope();
        long both = keepA.logical_or(keepB).logical_not().sum().item<long>();
        long either = keepA.logical_and(keepB).logical_not().sum().item<long>();
        return either == 0 ? 1 : (double)both / either;
    }

    private static Tensor Norms(Tensor? scalerRow, string layer) =>
        scalerRow ?? throw new EspalierException($"GBLM needs the input norms of {layer}; give the plan calibration text.");

    private static void RequireSameShape(Tensor W, Tensor G, string layer) =>
        EspalierException.Require(W.shape.AsSpan().SequenceEqual(G.shape),
            $"{layer} is [{string.Join(", ", W.shape)}], but its gradient norm is [{string.Join(", ", G.shape)}]; they must come from the same weight.");

    private static Tensor Checked(Tensor? gradient, string name, int sample)
    {
        EspalierException.Require(gradient is not null && !gradient.IsInvalid, $"The loss of sample {sample} does not depend on {name}; leave that weight out, or check that the model uses it.");
        Tensor g = gradient.to(ScalarType.Float32);
        double largest = g.numel() == 0 ? 1 : g.abs().max().item<float>();
        EspalierException.Require(largest > 0, $"The gradient of {name} is zero everywhere in sample {sample}; it may be too small for its number format (use float32), or the sample has nothing to predict.");
        EspalierException.Require(double.IsFinite(largest), $"The gradient of {name} holds NaN or infinite values in sample {sample}; the weights or the sample are damaged.");
        return g;
    }

    // The median, or the mean where more than half of the term is 0 (most inputs never active).
    private static double Middle(Tensor term)
    {
        double median = term.numel() == 0 ? 0 : term.median().item<float>();
        return median > 0 ? median : Mean(term);
    }

    private static double Mean(Tensor term) => term.numel() == 0 ? 0 : term.to(ScalarType.Float64).mean().item<double>();

    /// <summary>A norm over samples that arrive one at a time; holds one float per weight.</summary>
    private sealed class GradientSum(GradientNorm norm) : IDisposable
    {
        private Tensor? _total;

        public void Add(Tensor gradient)
        {
            using Tensor term = norm is GradientNorm.L1 ? gradient.abs() : gradient.square();
            if (_total is null)
            {
                _total = term.clone().DetachFromDisposeScope();
            }
            else
            {
                _total.add_(term);
            }
        }

        // In place: a second tensor for every weight of a block would be the largest thing in memory.
        public Tensor Norm()
        {
            using var scope = NewDisposeScope();
            Tensor total = norm is GradientNorm.L1 ? _total! : _total!.sqrt_();
            _total = null;
            scope.Attach(total);
            return total.MoveToOuterDisposeScope();
        }

        public void Dispose() => _total?.Dispose();
    }
}

/// <summary>The two terms of GBLM's score in one layer.</summary>
/// <param name="Scale">The α at which their medians are equal; 1 where one of them is 0 throughout.</param>
/// <param name="ActivationMedian">The median of |W|·√s (its mean where the median is 0).</param>
/// <param name="GradientMedian">The same of |W|·G, raw.</param>
/// <param name="GradientShare">The gradient term's share of the summed score at that α, from 0 to 1.</param>
public sealed record GblmBalance(double Scale, double ActivationMedian, double GradientMedian, double GradientShare);
