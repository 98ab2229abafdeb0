using System.Globalization;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>
/// Tensors in 8 bits (the dynamic map of Dettmers et al., "8-bit Optimizers via Block-wise Quantization", arXiv 2110.02861): a code per value
/// into a map of 256 levels from 10⁻⁷ to 1, dense near 1 and with seven orders of magnitude below, and one float32 per block, its largest size.
/// </summary>
public static class EightBit
{
    /// <summary>Values that share a scale. Default 256.</summary>
    public const long DefaultBlock = 256;

    private static readonly double[] SignedLevels = MakeLevels(signed: true), UnsignedLevels = MakeLevels(signed: false);

    /// <summary>The levels [256], float32, ascending: 0, 1, and for i = 0..6 the centres of equal cells of [0.1, 1] times 10^(i−6), 2^i of them with both signs, or 2^(i+1) without.</summary>
    /// <param name="signed">Whether values may be negative.</param>
    public static Tensor Map(bool signed) => tensor(Levels(signed), ScalarType.Float32);

    /// <summary>Encodes a tensor, flattened into blocks in memory order; the last may be short.</summary>
    /// <param name="values">Any shape.</param>
    /// <param name="signed">The map; without signs a negative value becomes 0.</param>
    /// <param name="block">Values per block.</param>
    /// <returns>Codes as the values, uint8: the nearest level, the lower of two equally near; and the largest sizes [blocks], float32. In the caller's scope.</returns>
    /// <exception cref="EspalierException">When a block holds no value, or a value is not finite.</exception>
    public static (Tensor Codes, Tensor Largest) Encode(Tensor values, bool signed, long block = DefaultBlock)
    {
        EspalierException.Require(block >= 1, string.Create(CultureInfo.InvariantCulture, $"A block of {block} values is not possible in 8 bits; give at least 1."));
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        long count = values.numel(), blocks = (count + block - 1) / block;
        Tensor rows = nn.functional.pad(values.detach().flatten().to(ScalarType.Float64), [0, (blocks * block) - count]).view(blocks, block);
        Tensor largest = blocks == 0 ? zeros([0], ScalarType.Float32, values.device) : rows.abs().amax([1]).to(ScalarType.Float32);
        EspalierException.Require(largest.isfinite().all().item<bool>(), "A tensor with infinite or NaN values cannot be held in 8 bits; lower the learning rate.");

        // Values are compared in float64, where they and the middles between float32 levels are exact.
        Tensor middles = tensor(Middles(Levels(signed)), ScalarType.Float64, values.device);
        Tensor scaled = rows / largest.to(ScalarType.Float64).masked_fill(largest.eq(0), 1).unsqueeze(1);
        Tensor codes = bucketize(scaled, middles).to(ScalarType.Byte).flatten().narrow(0, 0, count).reshape(values.shape);
        return (codes.MoveToOuterDisposeScope(), largest.MoveToOuterDisposeScope());
    }

    /// <summary>The values that codes stand for, float32, in the caller's scope.</summary>
    /// <param name="codes">As <see cref="Encode"/> gave them.</param>
    /// <param name="largest">The largest sizes of the blocks.</param>
    /// <param name="signed">The map.</param>
    /// <param name="block">Values per block.</param>
    public static Tensor Decode(Tensor codes, Tensor largest, bool signed, long block = DefaultBlock)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor levels = Map(signed).to(codes.device).index_select(0, codes.flatten().to(ScalarType.Int32));
        return (levels * largest.repeat_interleave(block).narrow(0, 0, codes.numel())).reshape(codes.shape).MoveToOuterDisposeScope();
    }

    private static double[] Levels(bool signed) => signed ? SignedLevels : UnsignedLevels;

    private static double[] Middles(double[] levels) => [.. levels.Zip(levels.Skip(1), (low, high) => (low + high) / 2)];

    private static double[] MakeLevels(bool signed)
    {
        var levels = new List<double> { 0, 1 };
        for (int i = 0; i < 7; i++)
        {
            int cells = 1 << (signed ? i : i + 1);
            double power = Math.Pow(10, i - 6);
            for (int cell = 0; cell < cells; cell++)
            {
                double centre = (0.1 + (0.9 * (cell + 0.5) / cells)) * power;
                levels.Add(centre);
                if (signed)
                {
                    levels.Add(-centre);
                }
            }
        }

        return [.. levels.Select(level => (double)(float)level).Order()];
    }
}
