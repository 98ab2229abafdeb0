using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

/// <summary>What shares a learnt step size.</summary>
public enum LsqAxis
{
    /// <summary>Each position of axis −2 has one: tokens.</summary>
    Token,

    /// <summary>Each position of axis −1 has one: channels.</summary>
    Channel,

    /// <summary>Each position of axis 0 has one: output rows of a weight.</summary>
    Row,

    /// <summary>One for all.</summary>
    Tensor,
}

/// <summary>Step 2, learnt step sizes: ŷ = s·round(clamp(x/s, −Q_n, Q_p)), where s learns too.</summary>
/// <param name="Bits">b.</param>
/// <param name="AllPositive">Levels 0 to 2^b − 1 (softmax, GELU); else −2^(b−1) to 2^(b−1) − 1.</param>
/// <param name="Axis">What shares a step size.</param>
public sealed record Lsq(int Bits, bool AllPositive, LsqAxis Axis)
{
    private const double Least = 1e-5;

    /// <summary>StatsQ's levels s·(q + ½), none of them 0, with learnt step sizes: ŷ = s·(round(clamp(x/s − ½, −Q_n, Q_p)) + ½), starting at StatsQ's spacing. Not in the paper: it tells what comes of the levels from what comes of the learning.</summary>
    public bool Halves { get; init; }

    private double Shift => Halves ? 0.5 : 0;

    /// <summary>Q_n.</summary>
    public double Lower => AllPositive ? 0 : Math.Pow(2, Bits - 1);

    /// <summary>Q_p.</summary>
    public double Upper => AllPositive ? Math.Pow(2, Bits) - 1 : Math.Pow(2, Bits - 1) - 1;

    /// <summary>How many step sizes a tensor of a shape has.</summary>
    public long Count(long[] shape) => Axis switch { LsqAxis.Token => shape[^2], LsqAxis.Channel => shape[^1], LsqAxis.Row => shape[0], _ => 1 };

    /// <summary>The start: 2·mean|x|/√Q_p, twice that where all is positive.</summary>
    /// <param name="x">A first batch.</param>
    /// <returns>s, in the caller's scope.</returns>
    public Tensor Start(Tensor x)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        long kept = Kept(x);
        Tensor size = x.detach().abs();
        Tensor mean = kept < 0 ? size.mean().reshape(1) : size.mean([.. Enumerable.Range(0, (int)x.dim()).Select(d => (long)d).Where(d => d != kept)]);
        return (mean * (Halves ? 2 / StatsQ.Half(Bits) : (AllPositive ? 4 : 2) / Math.Sqrt(Math.Max(Upper, 1)))).MoveToOuterDisposeScope();
    }

    /// <summary>Rounds within the graph: ∂x passes inside the clamp range, ends included; s gets its own gradient times 1/√(Q_p·N_s), N_s entries sharing one s.</summary>
    /// <param name="x">Anything.</param>
    /// <param name="s">One step size per position of the axis; below 1e-5 it counts as 1e-5.</param>
    /// <exception cref="EspalierException">When x has another number of positions: step sizes of tokens tie a net to one length.</exception>
    public Tensor Quantise(Tensor x, Tensor s)
    {
        EspalierException.Require(s.numel() == Count(x.shape),
            $"These activations have {s.numel()} step sizes, one for each {Axis.ToString().ToLowerInvariant()}, and [{string.Join(", ", x.shape)}] has {Count(x.shape)}; a net with quantised activations runs at the length it was trained at.");
        using var scope = NewDisposeScope();
        double share = 1 / Math.Sqrt(Math.Max(Upper, 1) * ((double)x.numel() / s.numel()));
        Tensor floored = s + (s.detach().clamp(min: Least) - s.detach());
        // Its value is s, its gradient a share of the gradient.
        Tensor step = Shaped((floored * share) + (floored - (floored * share)).detach(), x);
        Tensor clamped = Position(x, step);
        return ((clamped + (clamped.round() - clamped).detach() + Shift) * step).MoveToOuterDisposeScope();
    }

    /// <summary>What is rounded to a level.</summary>
    /// <param name="x">Anything.</param>
    /// <param name="step">Step sizes, shaped to divide it.</param>
    public Tensor Position(Tensor x, Tensor step) => ((x / step) - Shift).clamp(-Lower, Upper);

    private long Kept(Tensor x) => Axis switch { LsqAxis.Token => x.dim() - 2, LsqAxis.Channel => x.dim() - 1, LsqAxis.Row => 0, _ => -1 };

    private Tensor Shaped(Tensor s, Tensor x)
    {
        var shape = new long[x.dim()];
        Array.Fill(shape, 1);
        if (Kept(x) is var kept and >= 0)
        {
            shape[kept] = s.numel();
        }

        return s.view(shape);
    }
}
