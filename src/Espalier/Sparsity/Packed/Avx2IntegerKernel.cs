using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>int8 and int4 weights by inputs in 8 bits (maddubs, madd): sizes of inputs times weights with their signs, or inputs times code + 8.</summary>
internal sealed unsafe class Avx2IntegerKernel<TWeights> : RowKernel
    where TWeights : struct, IIntegers256<TWeights>
{
    // The scales of a chunk, and its opened bytes with what is stored beyond the last.
    private const int Room = BlockScales.Chunk * 2, Opened = (BlockScales.Chunk * RowCodec.Block) + 64;

    private static readonly byte* OneWords = Constants.Keep(32, i => 1 - (i % 2));

    [SkipLocalsInit]
    public override void Rows(in RowSet rows, int first, int end)
    {
        float* scales = stackalloc float[Room * 2];
        byte* opened = stackalloc byte[TWeights.Opens ? Opened * 2 : 1];
        Pairs(rows, first, end, scales, opened);
    }

    [SkipLocalsInit]
    public override void Four(byte* row, int columns, PackedInput x, int from, float* products)
    {
        int blocks = x.Blocks;
        long width = blocks * (long)RowCodec.Block, at = from * width;
        byte* values = Values(row, blocks), opened = stackalloc byte[TWeights.Opens ? Opened : 1];
        float* room = stackalloc float[Room * 4];
        new Span<float>(products, 4).Clear();
        for (int start = 0; start < blocks; start += BlockScales.Chunk, at += BlockScales.Chunk * RowCodec.Block)
        {
            int count = Math.Min(BlockScales.Chunk, blocks - start);
            for (int c = 0; c < 4; c++)
            {
                float offset = BlockScales.OfRow(row, TWeights.PlaceBytes, TWeights.ScaleCount, x, from + c, start, count, room + c * Room);
                products[c] += TWeights.IsOffset ? offset : 0;
            }

            byte* place = row + start * (long)TWeights.PlaceBytes, next = TWeights.Opens ? opened : values, end = TWeights.Open(place, values, count, opened);
            One(place, ref next, x.Sizes + at, x.Codes + at, width, room, count, products);
            values = TWeights.Opens ? end : next;
        }
    }

    // Loops stand alone, without calls: around a call every sum would go through the stack, at the cost of half the speed. Two rows go
    // together, so that two streams are in flight and each input is loaded once.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Pairs(in RowSet rows, int first, int end, float* room, byte* opened)
    {
        PackedInput x = rows.X;
        TWeights weights = TWeights.Load();
        Vector256<short> ones = Vector256.Load((short*)OneWords);
        for (int i = first; i < end; i += 2)
        {
            int a = rows.Row(i), b = rows.Row(Math.Min(i + 1, end - 1));
            byte* place0 = rows.At(a), place1 = rows.At(b), next = rows.Ahead(i + 2, end) + ReadAhead.Lead, v0 = Values(place0, x.Blocks), v1 = Values(place1, x.Blocks);
            ushort* stored0 = (ushort*)(place0 + x.Blocks * (long)TWeights.PlaceBytes), stored1 = (ushort*)(place1 + x.Blocks * (long)TWeights.PlaceBytes);
            Vector256<float> sum0 = default, sum1 = default;
            for (int start = 0; start < x.Blocks; start += BlockScales.Chunk)
            {
                int count = Math.Min(BlockScales.Chunk, x.Blocks - start);
                float* scales0 = x.Scales + start, scales1 = scales0;
                if (TWeights.ScaleCount > 0)
                {
                    int at = start * TWeights.ScaleCount;
                    float* scales = (TWeights.ScaleCount == 1 ? x.Scales : x.HalfScales) + at, offsets = (TWeights.ScaleCount == 1 ? x.Offsets : x.HalfOffsets) + at;
                    scales0 = room;
                    scales1 = room + Room;
                    Vector256<float> more0 = BlockScales.MultiplySpread(stored0 + at, scales, offsets, count * TWeights.ScaleCount, scales0);
                    Vector256<float> more1 = BlockScales.MultiplySpread(stored1 + at, scales, offsets, count * TWeights.ScaleCount, scales1);
                    if (TWeights.IsOffset)
                    {
                        sum0 += more0;
                        sum1 += more1;
                    }
                }

                byte* end0 = v0, end1 = v1;
                if (TWeights.Opens)
                {
                    end0 = TWeights.Open(place0, v0, count, opened);
                    end1 = TWeights.Open(place1, v1, count, opened + Opened);
                    v0 = opened;
                    v1 = opened + Opened;
                }

                byte* sizes = x.Sizes + start * 64L;
                sbyte* codes = x.Codes + start * 64L;
                for (int block = 0; block < count; block++, place0 += TWeights.PlaceBytes, place1 += TWeights.PlaceBytes, sizes += 64, codes += 64, next += TWeights.LinesAhead * 64)
                {
                    ReadAhead.Lines(next, TWeights.LinesAhead, near: TWeights.LinesAhead <= 2);
                    sum0 = Add(weights.Take(place0, ref v0, out Vector256<sbyte> second0), second0, sizes, codes, scales0, block, ones, sum0);
                    sum1 = Add(weights.Take(place1, ref v1, out Vector256<sbyte> second1), second1, sizes, codes, scales1, block, ones, sum1);
                }

                if (TWeights.Opens)
                {
                    v0 = end0;
                    v1 = end1;
                }
            }

            rows.Output[a] = Vector256.Sum(sum0) * rows.Scales[a];
            rows.Output[b] = Vector256.Sum(sum1) * rows.Scales[b];
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void One(byte* place, ref byte* values, byte* sizes, sbyte* codes, long width, float* scales, int count, float* products)
    {
        TWeights weights = TWeights.Load();
        Vector256<short> ones = Vector256.Load((short*)OneWords);
        byte* v = values;
        Vector256<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int b = 0; b < count; b++, place += TWeights.PlaceBytes, sizes += 64, codes += 64)
        {
            Vector256<sbyte> w0 = weights.Take(place, ref v, out Vector256<sbyte> w1);
            sum0 = Add(w0, w1, sizes, codes, scales, b, ones, sum0);
            sum1 = Add(w0, w1, sizes + width, codes + width, scales + Room, b, ones, sum1);
            sum2 = Add(w0, w1, sizes + 2 * width, codes + 2 * width, scales + Room * 2, b, ones, sum2);
            sum3 = Add(w0, w1, sizes + 3 * width, codes + 3 * width, scales + Room * 3, b, ones, sum3);
        }

        values = v;
        products[0] += Vector256.Sum(sum0);
        products[1] += Vector256.Sum(sum1);
        products[2] += Vector256.Sum(sum2);
        products[3] += Vector256.Sum(sum3);
    }

    [SkipLocalsInit]
    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        TWeights weights = TWeights.Load();
        byte* opened = stackalloc byte[TWeights.Opens ? Opened : 1], place = row, values = Values(row, blocks);
        ushort* scales = (ushort*)(row + blocks * (long)TWeights.PlaceBytes);
        for (int start = 0; start < blocks; start += BlockScales.Chunk)
        {
            int count = Math.Min(BlockScales.Chunk, blocks - start);
            byte* next = TWeights.Opens ? opened : values, end = TWeights.Open(place, values, count, opened);
            for (int b = start; b < start + count; b++, place += TWeights.PlaceBytes, scales += TWeights.ScaleCount)
            {
                float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
                Vector256<sbyte> w0 = weights.Take(place, ref next, out Vector256<sbyte> w1);
                Write(w0, TWeights.ScaleCount == 0 ? scale : Quantiser.FromBFloat16(scales[0]), block);
                Write(w1, TWeights.ScaleCount == 0 ? scale : Quantiser.FromBFloat16(scales[TWeights.ScaleCount - 1]), block + 32);
            }

            values = TWeights.Opens ? end : next;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static byte* Values(byte* row, int blocks) => row + blocks * (long)(TWeights.PlaceBytes + TWeights.ScaleCount * 2);

    // Products with code + 8 are small enough for two of them to be added in 16 bits.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Add(Vector256<sbyte> w0, Vector256<sbyte> w1, byte* sizes, sbyte* codes, float* scales, int b, Vector256<short> ones, Vector256<float> sum)
    {
        Vector256<short> dot0 = Dot(w0, sizes, codes), dot1 = Dot(w1, sizes + 32, codes + 32);
        if (TWeights.ScaleCount == 2)
        {
            return Add(Avx2.MultiplyAddAdjacent(dot1, ones), scales[2 * b + 1], Add(Avx2.MultiplyAddAdjacent(dot0, ones), scales[2 * b], sum));
        }

        return Add(TWeights.IsOffset ? Avx2.MultiplyAddAdjacent(dot0 + dot1, ones) : Avx2.MultiplyAddAdjacent(dot0, ones) + Avx2.MultiplyAddAdjacent(dot1, ones), scales[b], sum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Add(Vector256<int> dot, float scale, Vector256<float> sum) => Fma.MultiplyAdd(Avx.ConvertToVector256Single(dot), Vector256.Create(scale), sum);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<short> Dot(Vector256<sbyte> w, byte* sizes, sbyte* codes) => TWeights.IsOffset
        ? Avx2.MultiplyAddAdjacent(w.AsByte(), Vector256.Load(codes))
        : Avx2.MultiplyAddAdjacent(Vector256.Load(sizes), Avx2.Sign(w, Vector256.Load(codes)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Write(Vector256<sbyte> weights, float scale, float* to)
    {
        Vector256<sbyte> w = TWeights.IsOffset ? weights - Vector256.Create((sbyte)8) : weights;
        Vector256<float> by = Vector256.Create(scale);
        for (int half = 0; half < 2; half++, to += 16)
        {
            Vector128<sbyte> part = half == 0 ? w.GetLower() : w.GetUpper();
            (Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(part)) * by).Store(to);
            (Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(Sse2.ShiftRightLogical128BitLane(part, 8))) * by).Store(to + 8);
        }
    }
}
