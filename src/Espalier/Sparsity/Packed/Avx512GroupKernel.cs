using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>
/// 2:4 weights with one vector: inputs are moved to the values (VBMI), not values to their columns, so that 128 columns make one vector of
/// products.
/// </summary>
internal sealed class Avx512GroupKernel<TWeights> : Avx512IntegerKernel<TWeights>
    where TWeights : struct, IGroups512
{
    [SkipLocalsInit]
    public override unsafe (float First, float Second) Pair(byte* first, byte* second, int columns, PackedInput x)
    {
        int blocks = x.Blocks;
        byte* v0 = Values(first, blocks), v1 = Values(second, blocks), place0 = first, place1 = second;
        sbyte* codes = x.Codes;
        float* scales0 = stackalloc float[BlockScales.Chunk], scales1 = stackalloc float[BlockScales.Chunk];
        Vector512<float> sum0 = default, sum1 = default;
        for (int start = 0; start < blocks; start += BlockScales.Chunk)
        {
            int count = Math.Min(BlockScales.Chunk, blocks - start), b = 0;
            Scales(first, x, 0, start, count, scales0);
            Scales(second, x, 0, start, count, scales1);
            for (; b + 2 <= count; b += 2)
            {
                Vector512<sbyte> low = Vector512.Load(codes), high = Vector512.Load(codes + 64);
                sum0 = AddTwo(place0, v0, low, high, scales0 + b, sum0);
                sum1 = AddTwo(place1, v1, low, high, scales1 + b, sum1);
                place0 += 2 * TwoOfFour.BlockBytes;
                place1 += 2 * TwoOfFour.BlockBytes;
                v0 += 2 * TWeights.ValueBytes;
                v1 += 2 * TWeights.ValueBytes;
                codes += 128;
            }

            if (b < count)
            {
                long at = (start + b) * (long)RowCodec.Block;
                sum0 = Add(TWeights.Take(place0, ref v0), x.Sizes + at, x.Signs + at, Vector512.Create(scales0[b]), sum0);
                sum1 = Add(TWeights.Take(place1, ref v1), x.Sizes + at, x.Signs + at, Vector512.Create(scales1[b]), sum1);
            }
        }

        return (Vector512.Sum(sum0), Vector512.Sum(sum1));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe Vector512<float> AddTwo(byte* places, byte* values, Vector512<sbyte> low, Vector512<sbyte> high, float* scales, Vector512<float> sum)
    {
        Vector512<sbyte> w = TWeights.TwoBlocks(values), x = Avx512Vbmi.PermuteVar64x8x2(low, Groups512.Columns(places).AsSByte(), high);
        Vector512<short> dot;
        if (TWeights.ScaleCount == 0)
        {
            dot = Avx512BW.MultiplyAddAdjacent(Vector512.Abs(x).AsByte(), Vector512.ConditionalSelect(Vector512.LessThan(x, Vector512<sbyte>.Zero), -w, w));
        }
        else
        {
            // Which inputs meet a value depends on the row, so that the 8 of code + 8 is taken off here.
            dot = Avx512BW.MultiplyAddAdjacent(w.AsByte(), x) - Avx512BW.MultiplyAddAdjacent(Vector512.Create((byte)8), x);
        }

        Vector512<float> by = Vector512.Create(Vector256.Create(scales[0]), Vector256.Create(scales[1]));
        return Avx512F.FusedMultiplyAdd(Avx512F.ConvertToVector512Single(Avx512BW.MultiplyAddAdjacent(dot, Vector512<short>.One)), by, sum);
    }
}
