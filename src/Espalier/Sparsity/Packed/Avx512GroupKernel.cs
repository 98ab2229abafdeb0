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
    private static readonly unsafe sbyte* Eights = (sbyte*)Constants.Keep(64, _ => 8);

    [SkipLocalsInit]
    public override unsafe void Rows(in RowSet rows, int first, int end)
    {
        float* room = stackalloc float[BlockScales.Chunk * 2];
        Pairs(rows, first, end, room);
    }

    // Without calls, see the base class. Two blocks at a time, and then one that is left over.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static unsafe void Pairs(in RowSet rows, int first, int end, float* room)
    {
        PackedInput x = rows.X;
        TWeights weights = TWeights.Load();
        Columns512 columns = Columns512.Load();
        Vector512<short> ones = Vector512.Load((short*)Ones);
        Vector512<int> halves = Vector512.Load((int*)Halves);
        Vector512<sbyte> eight = Vector512.Load(Eights);
        for (int i = first; i < end; i += 2)
        {
            int a = rows.Row(i), b = rows.Row(Math.Min(i + 1, end - 1));
            byte* place0 = rows.At(a), place1 = rows.At(b), next = rows.Ahead(i + 2, end) + ReadAhead.Lead, v0 = Values(place0, x.Blocks), v1 = Values(place1, x.Blocks);
            ushort* stored0 = (ushort*)(place0 + x.Blocks * (long)TwoOfFour.BlockBytes), stored1 = (ushort*)(place1 + x.Blocks * (long)TwoOfFour.BlockBytes);
            sbyte* codes = x.Codes;
            Vector512<float> sum0 = default, sum1 = default;
            for (int start = 0; start < x.Blocks; start += BlockScales.Chunk)
            {
                int count = Math.Min(BlockScales.Chunk, x.Blocks - start);
                float* scales0 = x.Scales + start, scales1 = scales0;
                if (TWeights.ScaleCount > 0)
                {
                    scales0 = room;
                    scales1 = room + BlockScales.Chunk;
                    BlockScales.MultiplyWide(stored0 + start, x.Scales + start, x.Offsets + start, count, scales0);
                    BlockScales.MultiplyWide(stored1 + start, x.Scales + start, x.Offsets + start, count, scales1);
                }

                int block = 0;
                for (; block + 2 <= count; block += 2, codes += 128, next += TWeights.LinesAhead * 128)
                {
                    ReadAhead.Lines(next, TWeights.LinesAhead * 2, near: true);
                    Vector512<sbyte> low = Vector512.Load(codes), high = Vector512.Load(codes + 64);
                    Vector512<float> by0 = Avx512F.PermuteVar4x32(Vector512.Create(*(double*)(scales0 + block)).AsSingle(), halves);
                    Vector512<float> by1 = Avx512F.PermuteVar4x32(Vector512.Create(*(double*)(scales1 + block)).AsSingle(), halves);
                    sum0 = AddTwo(weights.TwoBlocks(v0), Avx512Vbmi.PermuteVar64x8x2(low, columns.At(place0).AsSByte(), high), eight, ones, by0, sum0);
                    sum1 = AddTwo(weights.TwoBlocks(v1), Avx512Vbmi.PermuteVar64x8x2(low, columns.At(place1).AsSByte(), high), eight, ones, by1, sum1);
                    place0 += 2 * TwoOfFour.BlockBytes;
                    place1 += 2 * TwoOfFour.BlockBytes;
                    v0 += 2 * TWeights.ValueBytes;
                    v1 += 2 * TWeights.ValueBytes;
                }

                if (block < count)
                {
                    long at = (start + block) * 64L;
                    sum0 = Add(weights.Take(place0, ref v0), x.Sizes + at, x.Signs + at, Vector512.Create(scales0[block]), ones, sum0);
                    sum1 = Add(weights.Take(place1, ref v1), x.Sizes + at, x.Signs + at, Vector512.Create(scales1[block]), ones, sum1);
                }
            }

            rows.Output[a] = Lanes512.Sum(sum0) * rows.Scales[a];
            rows.Output[b] = Lanes512.Sum(sum1) * rows.Scales[b];
        }
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
