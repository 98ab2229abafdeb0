using Espalier.Runtime;
using Espalier.Sparsity.NormalFloats;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

/// <summary>Which sides of an error the Fisher matrix weights in the low-rank part.</summary>
public enum FisherSides
{
    /// <summary>Rows and columns.</summary>
    TwoSided,

    /// <summary>Rows (outputs) only.</summary>
    Row,

    /// <summary>Columns (inputs) only.</summary>
    Col,

    /// <summary>Neither.</summary>
    None,
}

/// <summary>A matrix as A ≈ L1·L2 + Q. Disposes its tensors.</summary>
/// <param name="L1">[O, r], float32.</param>
/// <param name="L2">[r, I], float32.</param>
/// <param name="Q">The quantised part [O, I].</param>
/// <param name="Error">‖√F ⊙ (A − L1·L2 − Q)‖_F, with F = 1 where none was given.</param>
/// <param name="Iterations">How many were made.</param>
public sealed record Decomposition(Tensor L1, Tensor L2, NfTensor Q, double Error, int Iterations) : IDisposable
{
    /// <summary>L1·L2 [O, I], in the caller's scope.</summary>
    public Tensor Product() => L1.mm(L2);

    /// <inheritdoc/>
    public void Dispose()
    {
        L1.Dispose();
        L2.Dispose();
        Q.Dispose();
    }
}

/// <summary>The alternation of LQ-LoRA: the low-rank part of what quantisation leaves, the quantisation of what the low-rank part leaves.</summary>
public static class LowRankPlusQuantised
{
    private const double LeastWeight = 1e-8; // of the mean: rows and columns without any Fisher information

    /// <summary>The best rank-r matrices L1·L2 ≈ A under the Fisher matrix's row and column means: the SVD of diag(d1)·A·diag(d2), its values' square roots on both sides.</summary>
    /// <param name="a">A [O, I].</param>
    /// <param name="fisher">F [O, I]; null weights nothing.</param>
    /// <param name="rank">r.</param>
    /// <param name="sides">Which sides are weighted.</param>
    /// <returns>L1 [O, r] and L2 [r, I], float32, in the caller's scope.</returns>
    /// <exception cref="EspalierException">When the rank does not fit, shapes differ, or F has no positive entry.</exception>
    public static (Tensor L1, Tensor L2) WeightedSvd(Tensor a, Tensor? fisher, int rank, FisherSides sides)
    {
        long limit = Math.Min(a.shape[0], a.shape[1]);
        EspalierException.Require(rank >= 1 && rank <= limit, $"A rank of {rank} does not fit a matrix [{a.shape[0]}, {a.shape[1]}]; use 1 to {limit}.");
        EspalierException.Require(fisher is null || fisher.shape.AsSpan().SequenceEqual(a.shape), $"The Fisher matrix is [{string.Join(", ", fisher?.shape ?? [])}], its weight [{string.Join(", ", a.shape)}]; they must be of one shape.");
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor wide = a.detach().to(ScalarType.Float64);
        Tensor? d1 = fisher is null || sides is FisherSides.None or FisherSides.Col ? null : Root(fisher, 1);
        Tensor? d2 = fisher is null || sides is FisherSides.None or FisherSides.Row ? null : Root(fisher, 0);
        wide = d1 is null ? wide : wide * d1.unsqueeze(1);
        wide = d2 is null ? wide : wide * d2;
        (Tensor u, Tensor s, Tensor vt) = linalg.svd(wide, fullMatrices: false);
        Tensor root = s.narrow(0, 0, rank).sqrt();
        Tensor l1 = u.narrow(1, 0, rank) * root, l2 = vt.narrow(0, 0, rank) * root.unsqueeze(1);
        l1 = d1 is null ? l1 : l1 / d1.unsqueeze(1);
        l2 = d2 is null ? l2 : l2 / d2;
        return (l1.to(ScalarType.Float32).MoveToOuterDisposeScope(), l2.to(ScalarType.Float32).MoveToOuterDisposeScope());
    }

    /// <summary>A ≈ L1·L2 + Q by turns until the error rises; the best turn is kept.</summary>
    /// <param name="a">A [O, I].</param>
    /// <param name="fisher">F [O, I], which weights the error; null for none.</param>
    /// <param name="rank">r.</param>
    /// <param name="format">How Q is quantised.</param>
    /// <param name="iterations">T, the most turns.</param>
    /// <param name="sides">Which sides F weights in the low-rank part.</param>
    /// <returns>The decomposition, which the caller disposes.</returns>
    /// <exception cref="EspalierException">As <see cref="WeightedSvd"/> and <see cref="NfFormat.Quantise"/>.</exception>
    public static Decomposition Decompose(Tensor a, Tensor? fisher, int rank, NfFormat format, int iterations = 100, FisherSides sides = FisherSides.TwoSided)
    {
        EspalierException.Require(iterations >= 1, $"{iterations} iterations decompose nothing; give at least 1.");
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor whole = a.detach().to(ScalarType.Float32);
        Tensor? root = fisher?.to(ScalarType.Float64).sqrt();
        Tensor q = zeros_like(whole);
        Decomposition? best = null;
        double last = double.PositiveInfinity;
        int made = 0;
        while (made < iterations)
        {
            using var turn = NewDisposeScope();
            made++;
            (Tensor l1, Tensor l2) = WeightedSvd(whole - q, fisher, rank, sides);
            Tensor product = l1.mm(l2);
            NfTensor quantised = format.Quantise(whole - product);
            Tensor dense = quantised.Dequantise();
            double error = Error(whole - product - dense, root);
            if (best is null || error < best.Error)
            {
                best?.Dispose();
                best = new Decomposition(l1.DetachFromDisposeScope(), l2.DetachFromDisposeScope(), Keep(quantised), error, made);
            }

            if (error > last)
            {
                break;
            }

            last = error;
            Tensor before = q;
            q = dense.MoveToOuterDisposeScope();
            before.Dispose();
        }

        return best! with { Iterations = made };
    }

    /// <summary>Q = quantise(A), then L1·L2 of what is left: LoftQ with one turn. Rank 0 leaves the low-rank part out.</summary>
    /// <inheritdoc cref="Decompose"/>
    public static Decomposition QuantiseFirst(Tensor a, Tensor? fisher, int rank, NfFormat format, FisherSides sides = FisherSides.TwoSided)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor whole = a.detach().to(ScalarType.Float32);
        NfTensor quantised = format.Quantise(whole);
        Tensor rest = whole - quantised.Dequantise();
        (Tensor l1, Tensor l2) = rank == 0 ? (zeros([a.shape[0], 0]), zeros([0, a.shape[1]])) : WeightedSvd(rest, fisher, rank, sides);
        double error = Error(rank == 0 ? rest : rest - l1.mm(l2), fisher?.to(ScalarType.Float64).sqrt());
        return new Decomposition(l1.DetachFromDisposeScope(), l2.DetachFromDisposeScope(), Keep(quantised), error, 1);
    }

    /// <summary>‖√F ⊙ E‖_F.</summary>
    internal static double Error(Tensor error, Tensor? rootFisher)
    {
        using var scope = NewDisposeScope();
        Tensor wide = error.to(ScalarType.Float64);
        return (rootFisher is null ? wide : wide * rootFisher).norm().item<double>();
    }

    private static NfTensor Keep(NfTensor made)
    {
        foreach (Tensor part in new[] { made.Codes, made.ScaleCodes, made.Super, made.Offset, made.Scales })
        {
            part.DetachFromDisposeScope();
        }

        return made;
    }

    /// <summary>√(mean over a dimension of F), with a floor so that it can be divided by.</summary>
    private static Tensor Root(Tensor fisher, long over)
    {
        Tensor root = fisher.detach().to(ScalarType.Float64).mean([over]).sqrt();
        double mean = root.mean().item<double>();
        EspalierException.Require(mean > 0 && double.IsFinite(mean), "The Fisher matrix of a weight is zero everywhere or not finite: no gradient reached it; use other calibration text, or leave the Fisher weights out.");
        return root.clamp_min(LeastWeight * mean);
    }
}
