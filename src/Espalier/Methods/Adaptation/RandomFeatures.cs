using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>A function that universal random features can stand for.</summary>
public enum UniversalFunction
{
    /// <summary>sin.</summary>
    Sin,

    /// <summary>cos.</summary>
    Cos,
}

/// <summary>The random features of scalable neural network kernels: maps of inputs and of weights whose dot product is a layer.</summary>
public static class RandomFeatures
{
    private const double LargestJitter = 1e3; // relative to the ridge system's mean diagonal

    /// <summary>φ(x) = max(G·x, c)/√m.</summary>
    /// <param name="x">[..., d].</param>
    /// <param name="g">G [m, d].</param>
    /// <param name="clip">c: 0 is ReLU, below it clips at c.</param>
    /// <returns>[..., m], within the graph of gradients, in the caller's scope.</returns>
    public static Tensor Relu(Tensor x, Tensor g, double clip = 0)
    {
        using var scope = NewDisposeScope();
        return nn.functional.linear(x, g).clamp_min(clip).div(Math.Sqrt(g.shape[0])).MoveToOuterDisposeScope();
    }

    /// <summary>E[φ(x)·φ(w)] for c = 0: |x||w|(sin θ + (π − θ)cos θ)/(2π), the arc-cosine kernel of order 1.</summary>
    /// <param name="x">[N, d].</param>
    /// <param name="w">[O, d].</param>
    /// <returns>[N, O], in the caller's scope.</returns>
    public static Tensor ArcCosine(Tensor x, Tensor w)
    {
        using var scope = NewDisposeScope();
        Tensor a = x.to(ScalarType.Float64), b = w.to(ScalarType.Float64);
        Tensor lengths = linalg.norm(a, 2, [1], keepdim: true) * linalg.norm(b, 2, [1]);
        Tensor cosine = (a.mm(b.t()) / lengths.clamp_min(1e-300)).clamp(-1, 1), angle = cosine.acos();
        return (lengths * (angle.sin() + ((Math.PI - angle) * cosine)) / (2 * Math.PI)).to(x.dtype).MoveToOuterDisposeScope();
    }

    /// <summary>Universal random features φ(x)_j = c/√m · exp(√(1+4M)·α_j·g_j·x − α_j²|x|²/2 − M|g_j|²), α_j = √(2πi·ξ_j), c = (1+4M)^(d/4).</summary>
    /// <param name="x">[N, d].</param>
    /// <param name="g">G [m, d].</param>
    /// <param name="xi">ξ [m]; ±1/(2π) for sin and cos.</param>
    /// <param name="damping">M &gt; −1/4; any is unbiased, it trades variance.</param>
    /// <returns>[N, m], complex128, in the caller's scope.</returns>
    /// <exception cref="EspalierException">When M is −1/4 or below.</exception>
    public static Tensor Universal(Tensor x, Tensor g, Tensor xi, double damping = 0)
    {
        EspalierException.Require(damping > -0.25 && double.IsFinite(damping), FormattableString.Invariant($"An M of {damping} is not possible for universal random features; it must be above -0.25."));
        using var scope = NewDisposeScope();
        Tensor a = x.to(ScalarType.Float64), rows = g.to(ScalarType.Float64), draws = xi.to(ScalarType.Float64);
        Tensor size = (draws.abs() * (2 * Math.PI)).sqrt() * Math.Sqrt(0.5);

        // √(2πi·ξ) = √(2π|ξ|)·(1 ± i)/√2, and its square is 2πi·ξ.
        Tensor alpha = complex(size, size * draws.sign()), square = complex(zeros_like(draws), draws * (2 * Math.PI));
        Tensor along = a.mm(rows.t()) * Math.Sqrt(1 + (4 * damping)), none = zeros_like(along);
        Tensor half = a.square().sum(1, keepdim: true) / 2;
        Tensor damped = rows.square().sum(1) * damping;
        Tensor exponent = (alpha * complex(along, none)) - (square * complex(half, zeros_like(half))) - complex(damped, zeros_like(damped));
        return (exponent.exp() * (Math.Pow(1 + (4 * damping), g.shape[1] / 4.0) / Math.Sqrt(g.shape[0]))).MoveToOuterDisposeScope();
    }

    /// <summary>ψ(w, b)_j: the map of w times F(ξ_j)/p(ξ_j)·exp(2πi·ξ_j·b), so that Re Σ φ·ψ is f(w·x + b) on average (products are not conjugated).</summary>
    /// <param name="function">f.</param>
    /// <param name="w">[O, d].</param>
    /// <param name="bias">b [O].</param>
    /// <param name="g">G [m, d].</param>
    /// <param name="xi">ξ [m].</param>
    /// <param name="damping">M.</param>
    /// <returns>[O, m], complex128, in the caller's scope.</returns>
    /// <exception cref="EspalierException">As <see cref="Universal"/>.</exception>
    public static Tensor UniversalWeights(UniversalFunction function, Tensor w, Tensor bias, Tensor g, Tensor xi, double damping = 0)
    {
        using var scope = NewDisposeScope();
        Tensor draws = xi.to(ScalarType.Float64), phase = bias.to(ScalarType.Float64).unsqueeze(1) * draws * (2 * Math.PI);
        Tensor turned = complex(phase.cos(), phase.sin());
        if (function is UniversalFunction.Sin)
        {
            turned = turned * complex(zeros_like(draws), -draws.sign()); // sign(ξ)/i
        }

        return (Universal(w, g, xi, damping) * turned).MoveToOuterDisposeScope();
    }

    /// <summary>Rows that are orthogonal within blocks of d and as long as normal ones: Qᵀ of each block's QR, with the sign that makes R's diagonal positive (without it Q is not uniform), the last block cut.</summary>
    /// <param name="gauss">Normal numbers [⌈m/d⌉, d, d].</param>
    /// <param name="norms">The lengths of rows [m].</param>
    /// <returns>G [m, d], in the type of <paramref name="gauss"/>, in the caller's scope.</returns>
    public static Tensor OrthogonalRows(Tensor gauss, Tensor norms)
    {
        using var scope = NewDisposeScope();
        (Tensor q, Tensor r) = linalg.qr(gauss.to(ScalarType.Float64));
        Tensor signs = r.diagonal(0, 1, 2).sign();
        Tensor rows = (q * where(signs.eq(0), ones_like(signs), signs).unsqueeze(1)).transpose(1, 2).reshape(-1, gauss.shape[2]);
        return (rows.narrow(0, 0, norms.shape[0]) * norms.to(ScalarType.Float64).unsqueeze(1)).to(gauss.dtype).MoveToOuterDisposeScope();
    }

    /// <summary>Draws a projection G.</summary>
    /// <param name="features">m.</param>
    /// <param name="inputs">d.</param>
    /// <param name="orthogonal">Block-orthogonal rows in place of independent ones: lower variance.</param>
    /// <param name="seed">The seed.</param>
    /// <param name="purpose">What it is for; each purpose has a stream of its own.</param>
    /// <returns>[m, d], float32, in the caller's scope.</returns>
    public static Tensor Projection(long features, long inputs, bool orthogonal, Seed seed, string purpose)
    {
        using var scope = NewDisposeScope();
        using Generator generator = seed.Generator($"projection {purpose}");
        if (!orthogonal)
        {
            return randn([features, inputs], ScalarType.Float32, generator: generator).MoveToOuterDisposeScope();
        }

        Tensor gauss = randn([(features + inputs - 1) / inputs, inputs, inputs], ScalarType.Float32, generator: generator);
        Tensor norms = linalg.norm(randn([features, inputs], ScalarType.Float32, generator: generator), 2, [1]);
        return OrthogonalRows(gauss, norms).MoveToOuterDisposeScope();
    }

    /// <summary>The Θ with the least mean squared error under a ridge: (ΦᵀΦ/N + λI)⁻¹ΦᵀY/N, by its dual Φᵀ(ΦΦᵀ/N + λI)⁻¹Y/N where there are more features than samples.</summary>
    /// <param name="phi">Φ [N, m].</param>
    /// <param name="targets">Y [N, O].</param>
    /// <param name="ridge">λ.</param>
    /// <returns>Θ [m, O], float64, in the caller's scope.</returns>
    /// <exception cref="EspalierException">When sizes differ, λ is negative, or the system stays singular.</exception>
    public static Tensor Fit(Tensor phi, Tensor targets, double ridge)
    {
        EspalierException.Require(phi.dim() == 2 && targets.dim() == 2 && phi.shape[0] == targets.shape[0] && phi.shape[0] > 0, $"Features [{string.Join(", ", phi.shape)}] and targets [{string.Join(", ", targets.shape)}] of a fit must have a row for each sample.");
        EspalierException.Require(ridge >= 0 && double.IsFinite(ridge), FormattableString.Invariant($"A ridge of {ridge} is not possible; it must be 0 or a positive number."));
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor features = phi.to(ScalarType.Float64), y = targets.to(ScalarType.Float64);
        long samples = phi.shape[0];
        bool dual = phi.shape[1] > samples;
        Tensor gram = (dual ? features.mm(features.t()) : features.t().mm(features)) / samples;
        Tensor right = (dual ? y : features.t().mm(y)) / samples;
        Tensor solved = Solve(gram, right, ridge);
        return (dual ? features.t().mm(solved) : solved).MoveToOuterDisposeScope();
    }

    // A Gram matrix can be singular to rounding where the ridge is 0 or tiny: what is added grows until Cholesky's factor exists.
    private static Tensor Solve(Tensor gram, Tensor right, double ridge)
    {
        double mean = Math.Max(gram.diagonal().mean().item<double>(), double.Epsilon);
        for (double jitter = 0; jitter <= LargestJitter; jitter = jitter == 0 ? 1e-12 : jitter * 100)
        {
            Tensor system = gram + (eye(gram.shape[0], dtype: ScalarType.Float64) * (ridge + (jitter * mean)));
            (Tensor factor, Tensor info) = linalg.cholesky_ex(system);
            if (info.item<int>() == 0 && factor.isfinite().all().item<bool>())
            {
                return cholesky_solve(right, factor);
            }
        }

        throw new EspalierException("The features of a closed-form fit are not finite; scale the inputs down.");
    }
}
