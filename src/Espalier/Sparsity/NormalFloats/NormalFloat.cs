using Espalier.Runtime;
using MathNet.Numerics;
using static TorchSharp.torch;

namespace Espalier.Sparsity.NormalFloats;

/// <summary>
/// NormalFloat of b bits (QLoRA, arXiv 2305.14314): 2^b levels in [−1, 1] at quantiles of a normal distribution, 0 among them.
/// </summary>
public sealed class NormalFloat
{
    private const double C = 0.9677083; // the outermost quantile
    private static readonly Dictionary<int, NormalFloat> Known = [];

    private readonly float[] _levels;
    private readonly float[] _boundaries;

    private NormalFloat(int bits)
    {
        // σ such that the largest level is 1; Φ⁻¹(p) = √2·erf⁻¹(2p − 1), whose √2 is in σ.
        double largest = SpecialFunctions.ErfInv((2 * C) - 1);
        int half = 1 << (bits - 1);
        IEnumerable<double> low = Enumerable.Range(0, half - 1).Select(i => 1 - C + ((C - 0.5) * i / (half - 1)));
        IEnumerable<double> high = Enumerable.Range(0, half + 1).Select(i => 0.5 + ((C - 0.5) * i / half));
        double[] levels = [.. low.Concat(high).Select(p => SpecialFunctions.ErfInv((2 * p) - 1) / largest)];
        Bits = bits;
        _levels = [.. levels.Select(level => (float)level)];
        _boundaries = [.. levels.Zip(levels.Skip(1), (a, b) => (float)((a + b) / 2))];
    }

    /// <summary>b.</summary>
    public int Bits { get; }

    /// <summary>The levels [2^b], ascending from −1 to 1.</summary>
    public ReadOnlySpan<float> Levels => _levels;

    /// <summary>The middles between neighbouring levels [2^b − 1].</summary>
    public ReadOnlySpan<float> Boundaries => _boundaries;

    /// <summary>The code of 0.</summary>
    public byte Zero => (byte)((1 << (Bits - 1)) - 1);

    /// <summary>The scheme of a number of bits.</summary>
    /// <param name="bits">From 2 to 8.</param>
    /// <exception cref="EspalierException">For others.</exception>
    public static NormalFloat Of(int bits)
    {
        EspalierException.Require(bits is >= 2 and <= 8, $"A NormalFloat of {bits} bits does not exist; use 2 to 8.");
        lock (Known)
        {
            return Known.TryGetValue(bits, out NormalFloat? known) ? known : Known[bits] = new NormalFloat(bits);
        }
    }

    /// <summary>The codes of values, uint8 and shaped like them, in the caller's scope: how many boundaries lie strictly below, so a value on one takes the lower code.</summary>
    /// <param name="values">float32; beyond ±1 they take the outermost level.</param>
    public Tensor Encode(Tensor values)
    {
        using var scope = NewDisposeScope();
        return bucketize(values, tensor(_boundaries, ScalarType.Float32, values.device)).to(ScalarType.Byte).MoveToOuterDisposeScope();
    }

    /// <summary>The levels of codes, float32 and shaped like them, in the caller's scope.</summary>
    /// <param name="codes">As <see cref="Encode"/> gives them.</param>
    public Tensor Decode(Tensor codes)
    {
        using var scope = NewDisposeScope();
        return tensor(_levels, ScalarType.Float32, codes.device).index_select(0, codes.flatten().to(ScalarType.Int32)).reshape(codes.shape).MoveToOuterDisposeScope();
    }
}
