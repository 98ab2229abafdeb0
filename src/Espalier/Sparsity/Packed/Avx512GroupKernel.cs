using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>
/// 2:4 weights with one vector: inputs are moved to the values (VBMI), not values to their columns, so that 128 columns make one vector of
/// products.
/// </summary>
internal sealed class Avx512GroupKernel<TWeights> : Avx512IntegerKernel<TWeights>
    where TWeights : struct, IGroups512<TWeights>
{
    private static readonly unsafe sbyte* Eights = (sbyte*)Constants512.Keep(_ => 8);

    [SkipLocalsInit]
    public override unsafe (float First, float Second) Pair(byte* first, byte* second, int columns, PackedInput x, byte* ahead)
    {
        byte* v0 = Values(first, x.Blocks), v1 = Values(second, x.Blocks);
        float* room = stackalloc float[BlockScales.Chunk * 4];
        float sum0 = 0, sum1 = 0;
        for (int start = 0; start < x.Blocks; start += BlockScales.Chunk)
        {
            int count = Math.Min(BlockScales.Chunk, x.Blocks - start);
            (float one, float two) = TwoRows(first, second, ref v0, ref v1, x, start, count, room, ref ahead);
            (sum0, sum1) = (sum0 + one, sum1 + two);
            if (count % 2 == 1)
            {
                (one, two) = Two(first, second, ref v0, ref v1, x, start + count - 1, 1, room, ref ahead);
                (sum0, sum1) = (sum0 + one, sum1 + two);
            }
        }

        return (sum0, sum1);
    }

    // Without calls, see the base class. Two blocks at a time; one that is left over remains.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static unsafe (float First, float Second) TwoRows(
        byte* first, byte* second, ref byte* values0, ref byte* values1, PackedInput x, int start, int count, float* room, ref byte* ahead)
    {
        long header = x.Blocks * (long)TwoOfFour.BlockBytes;
        float* scales0 = x.Scales + start, scales1 = scales0;
        if (TWeights.ScaleCount > 0)
        {
            scales0 = room;
            scales1 = room + BlockScales.Chunk;
            BlockScales.MultiplyWide((ushort*)(first + header) + start, x.Scales + start, x.Offsets + start, count, scales0);
            BlockScales.MultiplyWide((ushort*)(second + header) + start, x.Scales + start, x.Offsets + start, count, scales1);
        }

        TWeights weights = TWeights.Load();
        Columns512 columns = Columns512.Load();
        Vector512<short> ones = Vector512.Load((short*)Ones);
        Vector512<int> halves = Vector512.Load((int*)Halves);
        Vector512<sbyte> eight = Vector512.Load(Eights);
        Vector512<float> sum0 = default, sum1 = default;
        byte* v0 = values0, v1 = values1, place0 = first + start * (long)TwoOfFour.BlockBytes, place1 = second + start * (long)TwoOfFour.BlockBytes, next = ahead;
        sbyte* codes = x.Codes + start * 64L;
        for (int b = 0; b < count / 2; b++)
        {
            Constants512.Prefetch(next, TWeights.LinesAhead * 2, near: true);
            Vector512<sbyte> low = Vector512.Load(codes), high = Vector512.Load(codes + 64);
            Vector512<float> by0 = Avx512F.PermuteVar4x32(Vector512.Create(((double*)scales0)[b]).AsSingle(), halves), by1 = Avx512F.PermuteVar4x32(Vector512.Create(((double*)scales1)[b]).AsSingle(), halves);
            sum0 = AddTwo(weights.TwoBlocks(v0), Avx512Vbmi.PermuteVar64x8x2(low, columns.At(place0).AsSByte(), high), eight, ones, by0, sum0);
            sum1 = AddTwo(weights.TwoBlocks(v1), Avx512Vbmi.PermuteVar64x8x2(low, columns.At(place1).AsSByte(), high), eight, ones, by1, sum1);
            place0 += 2 * TwoOfFour.BlockBytes;
            place1 += 2 * TwoOfFour.BlockBytes;
            v0 += 2 * TWeights.ValueBytes;
            v1 += 2 * TWeights.ValueBytes;
            codes += 128;
            next += TWeights.LinesAhead * 128;
        }

        values0 = v0;
        values1 = v1;
        ahead = next;
        return (Constants512.Sum(sum0), Constants512.Sum(sum1));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> AddTwo(Vector512<sbyte> w, Vector512<sbyte> x, Vector512<sbyte> eight, Vector512<short> ones, Vector512<float> scales, Vector512<float> sum)
    {
        Vector512<short> dot;
        if (TWeights.ScaleCount == 0)
        {
            dot = Avx512BW.MultiplyAddAdjacent(Vector512.Abs(x).AsByte(), Vector512.ConditionalSelect(Vector512.LessThan(x, Vector512<sbyte>.Zero), -w, w));
        }
        else
        {
            // Which inputs meet a value depends on the row, so that the 8 of code + 8 is taken off here.
            dot = Avx512BW.MultiplyAddAdjacent(w.AsByte(), x) - Avx512BW.MultiplyAddAdjacent(eight.AsByte(), x);
        }

        return Avx512F.FusedMultiplyAdd(Avx512F.ConvertToVector512Single(Avx512BW.MultiplyAddAdjacent(dot, ones)), scales, sum);
    }
}
