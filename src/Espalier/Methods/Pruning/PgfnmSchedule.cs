using Espalier.Runtime;

namespace Espalier.Methods.Pruning;

/// <summary>How <see cref="Pgfnm"/> comes to its pattern. The first two fade the mask (MDGF), the next three change the pattern (SDGF), the last two are baselines.</summary>
public enum NmDecay
{
    /// <summary>β falls on a line.</summary>
    Linear,

    /// <summary>β falls exponentially.</summary>
    Exp,

    /// <summary>Stepwise: (M−1):M, then M/2:M, M/4:M, … to N:M.</summary>
    Sparsify,

    /// <summary>Geometric: 8N:8M, 4N:4M, 2N:2M, N:M: equally sparse, in smaller and smaller groups.</summary>
    Fine,

    /// <summary>N:8M, N:4M, N:2M, N:M: the sparsest first.</summary>
    Densify,

    /// <summary>The binary mask from the start, straight through (STE).</summary>
    Step,

    /// <summary>STE that also pulls pruned weights to 0 (Zhou et al. 2021).</summary>
    SrSte,
}

/// <summary>A pattern of a ladder and the step or epoch at which it begins.</summary>
/// <param name="From">The first step or epoch.</param>
/// <param name="N">How many of a group stay.</param>
/// <param name="M">The size of a group.</param>
public sealed record NmFrame(long From, int N, int M);

/// <summary>The phases of N:M training: dense, then fading or stricter and stricter, then the binary mask of N:M.</summary>
/// <param name="Decay">The kind.</param>
/// <param name="N">How many of a group stay at the end.</param>
/// <param name="M">The size of a group at the end.</param>
/// <param name="Total">All steps (or epochs).</param>
/// <param name="Dense">The steps before anything is pruned.</param>
/// <param name="FineTune">The steps under the final binary mask.</param>
public sealed record PgfnmSchedule(NmDecay Decay, int N, int M, double Total, double Dense, double FineTune)
{
    /// <summary>Whether patterns change and the mask is binary.</summary>
    public static bool ChangesPattern(NmDecay decay) => decay is NmDecay.Sparsify or NmDecay.Fine or NmDecay.Densify;

    /// <summary>β at t steps after the dense phase: 1 leaves pruned weights as they are, 0 removes them.</summary>
    /// <param name="decay">The kind; 0 for those that do not fade.</param>
    /// <param name="coefficient">κ.</param>
    /// <param name="t">Steps; a negative t lies in the dense phase, where β is 1.</param>
    public static double Beta(NmDecay decay, double coefficient, double t) => decay switch
    {
        NmDecay.Linear => t < 0 ? 1 : Math.Max(1 - (coefficient * t), 0),
        NmDecay.Exp => t < 0 ? 1 : Math.Exp(-coefficient * t),
        _ => 0,
    };

    /// <summary>The patterns in order, frames of equal length between the dense phase and the last; one frame where the pattern does not change.</summary>
    /// <exception cref="EspalierException">When a stepwise ladder does not end on N:M.</exception>
    public IReadOnlyList<NmFrame> Frames()
    {
        EspalierException.Require(Decay is not NmDecay.Sparsify || (M % N == 0 && System.Numerics.BitOperations.IsPow2(M / N)),
            $"The stepwise ladder halves the weights that stay, so it cannot end on {N}:{M}; M/N must be a power of two, or use fine or densify.");
        int count = Decay switch { NmDecay.Sparsify => System.Numerics.BitOperations.Log2((uint)(M / N)) + 1, NmDecay.Fine or NmDecay.Densify => 4, _ => 1 };
        double length = (Total - Dense - FineTune) / count;
        return [.. Enumerable.Range(0, count).Select(i => (long)Dense + (long)(i * length)).Select((from, i) => Decay switch
        {
            NmDecay.Sparsify => new NmFrame(from, i == 0 ? M - 1 : M >> i, M),
            NmDecay.Fine => new NmFrame(from, N << (3 - i), M << (3 - i)),
            NmDecay.Densify => new NmFrame(from, N, M << (3 - i)),
            _ => new NmFrame(from, N, M),
        })];
    }

    /// <summary>Whether a step stands under the final binary mask.</summary>
    /// <param name="step">From 0.</param>
    public bool IsFineTuning(long step) => step > Total - FineTune;
}
