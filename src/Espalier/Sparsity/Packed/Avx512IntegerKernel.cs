using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>
/// int8 and int4 weights by inputs in 8 bits, summed in 16 and 32 bits (maddubs, madd): sizes of inputs times weights with their signs, or
/// inputs times code + 8. .NET 10 has no 512-bit VNNI.
/// </summary>
internal class Avx512IntegerKernel<TWeights> : RowKernel
    where TWeights : struct, IIntegers512<TWeights>
{
    private const int Room = BlockScales.Chunk * 2;

    /// <summary>Ones of 16 bits.</summary>
    protected static readonly unsafe byte* Ones = Constants.Keep(64, i => 1 - (i % 2));

    /// <summary>The first of two scales for the lower half of a vector, the second for the upper.</summary>
    protected static readonly unsafe byte* Halves = Constants.Keep(64, i => i >= 32 && i % 4 == 0 ? 1 : 0);

    [SkipLocalsInit]
    public override unsafe void Rows(in RowSet rows, int first, int end)
    {
        float* room = stackalloc float[Room * 2];
        Pairs(rows, first, end, room);
    }

    [SkipLocalsInit]
    public override unsafe void Four(byte* row, int columns, PackedInput x, int from, float* products)
    {
        int blocks = x.Blocks;
        long width = blocks * (long)RowCodec.Block, at = from * width;
        byte* values = Values(row, blocks);
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

            One(row + start * (long)TWeights.PlaceBytes, ref values, x.Sizes + at, Signs(x) + at, width, room, count, products);
        }
    }

    // Loops stand alone, without calls: around a call every sum would go through the stack, at the cost of half the speed. Two rows go
    // together, so that two streams are in flight and each input is loaded once.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static unsafe void Pairs(in RowSet rows, int first, int end, float* room)
    {
        PackedInput x = rows.X;
        TWeights weights = TWeights.Load();
        Vector512<short> ones = Vector512.Load((short*)Ones);
        Vector512<int> halves = Vector512.Load((int*)Halves);
        for (int i = first; i < end; i += 2)
        {
            int a = rows.Row(i), b = rows.Row(Math.Min(i + 1, end - 1));
            byte* place0 = rows.At(a), place1 = rows.At(b), next = rows.Ahead(i + 2, end) + ReadAhead.Lead, v0 = Values(place0, x.Blocks), v1 = Values(place1, x.Blocks);
            ushort* stored0 = (ushort*)(place0 + x.Blocks * (long)TWeights.PlaceBytes), stored1 = (ushort*)(place1 + x.Blocks * (long)TWeights.PlaceBytes);
            Vector512<float> sum0 = default, sum1 = default;
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
                    Vector512<float> more0 = BlockScales.MultiplyWide(stored0 + at, scales, offsets, count * TWeights.ScaleCount, scales0);
                    Vector512<float> more1 = BlockScales.MultiplyWide(stored1 + at, scales, offsets, count * TWeights.ScaleCount, scales1);
                    if (TWeights.IsOffset)
                    {
                        sum0 += more0;
                        sum1 += more1;
                    }
                }

                byte* sizes = x.Sizes + start * 64L;
                sbyte* signs = Signs(x) + start * 64L;
                for (int block = 0; block < count; block++, place0 += TWeights.PlaceBytes, place1 += TWeights.PlaceBytes, sizes += 64, signs += 64, next += TWeights.LinesAhead * 64)
                {
                    ReadAhead.Lines(next, TWeights.LinesAhead, near: TWeights.LinesAhead <= 2);
                    sum0 = Add(weights.Take(place0, ref v0), sizes, signs, Scale(scales0, block, halves), ones, sum0);
                    sum1 = Add(weights.Take(place1, ref v1), sizes, signs, Scale(scales1, block, halves), ones, sum1);
                }
            }

            rows.Output[a] = Lanes512.Sum(sum0) * rows.Scales[a];
            rows.Output[b] = Lanes512.Sum(sum1) * rows.Scales[b];
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static unsafe void One(byte* place, ref byte* values, byte* sizes, sbyte* signs, long width, float* scales, int count, float* products)
    {
        TWeights weights = TWeights.Load();
        Vector512<short> ones = Vector512.Load((short*)Ones);
        Vector512<int> halves = Vector512.Load((int*)Halves);
        byte* v = values;
        Vector512<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int b = 0; b < count; b++, place += TWeights.PlaceBytes, sizes += 64, signs += 64)
        {
            Vector512<sbyte> w = weights.Take(place, ref v);
            sum0 = Add(w, sizes, signs, Scale(scales, b, halves), ones, sum0);
            sum1 = Add(w, sizes + width, signs + width, Scale(scales + Room, b, halves), ones, sum1);
            sum2 = Add(w, sizes + 2 * width, signs + 2 * width, Scale(scales + Room * 2, b, halves), ones, sum2);
            sum3 = Add(w, sizes + 3 * width, signs + 3 * width, Scale(scales + Room * 3, b, halves), ones, sum3);
        }

        values = v;
        products[0] += Lanes512.Sum(sum0);
        products[1] += Lanes512.Sum(sum1);
        products[2] += Lanes512.Sum(sum2);
        products[3] += Lanes512.Sum(sum3);
    }

    protected override unsafe void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        TWeights weights = TWeights.Load();
        byte* values = Values(row, blocks), place = row;
        ushort* scales = (ushort*)(row + blocks * (long)TWeights.PlaceBytes);
        for (int b = 0; b < blocks; b++, place += TWeights.PlaceBytes, scales += TWeights.ScaleCount)
        {
            float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
            Vector512<sbyte> w = weights.Take(place, ref values);
            w = TWeights.IsOffset ? w - Vector512.Create((sbyte)8) : w;
            Write(w.GetLower(), TWeights.ScaleCount == 0 ? scale : Quantiser.FromBFloat16(scales[0]), block);
            Write(w.GetUpper(), TWeights.ScaleCount == 0 ? scale : Quantiser.FromBFloat16(scales[TWeights.ScaleCount - 1]), block + 32);
        }
    }

    /// <summary>Where a row's values begin.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    protected static unsafe byte* Values(byte* row, int blocks) => row + blocks * (long)(TWeights.PlaceBytes + TWeights.ScaleCount * 2);

    /// <summary>The signs of inputs, or the inputs themselves where weights are offset.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    protected static unsafe sbyte* Signs(PackedInput x) => TWeights.IsOffset ? x.Codes : x.Signs;

    /// <summary>Adds a block's products: with signs of inputs, or with inputs where weights are offset.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    protected static unsafe Vector512<float> Add(Vector512<sbyte> w, byte* sizes, sbyte* signs, Vector512<float> scale, Vector512<short> ones, Vector512<float> sum)
    {
        Vector512<sbyte> sign = Vector512.Load(signs);
        Vector512<short> dot = TWeights.IsOffset
            ? Avx512BW.MultiplyAddAdjacent(w.AsByte(), sign)
            : Avx512BW.MultiplyAddAdjacent(Vector512.Load(sizes), (w ^ sign) - sign);
        return Avx512F.FusedMultiplyAdd(Avx512F.ConvertToVector512Single(Avx512BW.MultiplyAddAdjacent(dot, ones)), scale, sum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe Vector512<float> Scale(float* scales, int b, Vector512<int> halves) => TWeights.ScaleCount == 2
        ? Avx512F.PermuteVar4x32(Vector512.Create(((double*)scales)[b]).AsSingle(), halves)
        : Vector512.Create(scales[b]);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void Write(Vector256<sbyte> w, float scale, float* to)
    {
        Vector512<float> by = Vector512.Create(scale);
        (Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(w.GetLower())) * by).Store(to);
        (Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(w.GetUpper())) * by).Store(to + 16);
    }
}
