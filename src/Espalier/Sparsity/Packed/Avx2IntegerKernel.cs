using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>int8 and int4 weights by inputs in 8 bits (maddubs, madd): sizes of inputs times weights with their signs, or inputs times code + 8.</summary>
internal sealed unsafe class Avx2IntegerKernel<TWeights> : PairKernel
    where TWeights : struct, IIntegers256
{
    // A block's bytes and what is stored beyond the last.
    private const int Room = BlockScales.Chunk * RowCodec.Block + 64;

    protected override (float First, float Second) Pair(byte* first, byte* second, PackedInput x, byte* ahead) => (One(first, x), One(second, x));

    [SkipLocalsInit]
    public override void Four(byte* row, int columns, PackedInput x, int from, float* products)
    {
        int blocks = x.Blocks;
        long width = blocks * (long)RowCodec.Block;
        byte* room = stackalloc byte[Room], places = row, values = Values(row, blocks), sizes = x.Sizes + from * width;
        sbyte* codes = x.Codes + from * width;
        float* scales = stackalloc float[BlockScales.Chunk * 8];
        Vector256<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int c = 0; c < 4; c++)
        {
            products[c] = 0;
        }

        for (int start = 0; start < blocks; start += BlockScales.Chunk)
        {
            int count = Math.Min(BlockScales.Chunk, blocks - start);
            byte* opened = TWeights.Open(places, ref values, count, room);
            bool inPlace = opened != room;
            for (int c = 0; c < 4; c++)
            {
                float offset = BlockScales.OfRow(row, TWeights.PlaceBytes, TWeights.ScaleCount, x, from + c, start, count, scales + c * BlockScales.Chunk * 2);
                products[c] += TWeights.IsOffset ? offset : 0;
            }

            for (int b = 0; b < count; b++, places += TWeights.PlaceBytes, sizes += 64, codes += 64)
            {
                Vector256<sbyte> w0 = TWeights.Take(places, ref opened, out Vector256<sbyte> w1);
                sum0 = Add(w0, w1, sizes, codes, scales, b, sum0);
                sum1 = Add(w0, w1, sizes + width, codes + width, scales + BlockScales.Chunk * 2, b, sum1);
                sum2 = Add(w0, w1, sizes + 2 * width, codes + 2 * width, scales + BlockScales.Chunk * 4, b, sum2);
                sum3 = Add(w0, w1, sizes + 3 * width, codes + 3 * width, scales + BlockScales.Chunk * 6, b, sum3);
            }

            values = inPlace ? opened : values;
        }

        products[0] += Vector256.Sum(sum0);
        products[1] += Vector256.Sum(sum1);
        products[2] += Vector256.Sum(sum2);
        products[3] += Vector256.Sum(sum3);
    }

    [SkipLocalsInit]
    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        byte* room = stackalloc byte[Room], places = row, values = Values(row, blocks);
        ushort* scales = (ushort*)(row + blocks * (long)TWeights.PlaceBytes);
        for (int start = 0; start < blocks; start += BlockScales.Chunk)
        {
            int count = Math.Min(BlockScales.Chunk, blocks - start);
            byte* opened = TWeights.Open(places, ref values, count, room);
            bool inPlace = opened != room;
            for (int b = start; b < start + count; b++, places += TWeights.PlaceBytes, scales += TWeights.ScaleCount)
            {
                float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
                Vector256<sbyte> w0 = TWeights.Take(places, ref opened, out Vector256<sbyte> w1);
                Write(w0, TWeights.ScaleCount == 0 ? scale : Quantiser.FromBFloat16(scales[0]), block);
                Write(w1, TWeights.ScaleCount == 0 ? scale : Quantiser.FromBFloat16(scales[TWeights.ScaleCount - 1]), block + 32);
            }

            values = inPlace ? opened : values;
        }
    }

    [SkipLocalsInit]
    private static float One(byte* row, PackedInput x)
    {
        byte* room = stackalloc byte[Room], places = row, values = Values(row, x.Blocks);
        float* scales = stackalloc float[BlockScales.Chunk * 2];
        float sum = 0;
        for (int start = 0; start < x.Blocks; start += BlockScales.Chunk, places += BlockScales.Chunk * TWeights.PlaceBytes)
        {
            int count = Math.Min(BlockScales.Chunk, x.Blocks - start);
            byte* opened = TWeights.Open(places, ref values, count, room), next = opened;
            sum += Part(row, places, ref next, x, start, count, scales);
            values = opened == room ? values : next;
        }

        return sum;
    }

    // The loops stand alone, without calls: around a call every sum would go through the stack.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static float Part(byte* row, byte* places, ref byte* opened, PackedInput x, int start, int count, float* room)
    {
        float* scales = x.Scales + start;
        Vector256<float> sum = default, second = default;
        if (TWeights.ScaleCount > 0)
        {
            long at = start * (long)TWeights.ScaleCount;
            ushort* stored = (ushort*)(row + x.Blocks * (long)TWeights.PlaceBytes) + at;
            sum = TWeights.ScaleCount == 1
                ? BlockScales.MultiplySpread(stored, x.Scales + at, x.Offsets + at, count, room)
                : BlockScales.MultiplySpread(stored, x.HalfScales + at, x.HalfOffsets + at, 2 * count, room);
            sum = TWeights.IsOffset ? sum : default;
            scales = room;
        }

        byte* from = opened, sizes = x.Sizes + start * 64L;
        sbyte* codes = x.Codes + start * 64L;
        for (int b = 0; b < count; b++, places += TWeights.PlaceBytes, sizes += 64, codes += 64)
        {
            Vector256<sbyte> w0 = TWeights.Take(places, ref from, out Vector256<sbyte> w1);
            if (TWeights.ScaleCount == 2)
            {
                sum = AddHalf(Dot(w0, sizes, codes), scales[2 * b], sum);
                second = AddHalf(Dot(w1, sizes + 32, codes + 32), scales[2 * b + 1], second);
            }
            else
            {
                sum = Add(w0, w1, sizes, codes, scales, b, sum);
            }
        }

        opened = from;
        return Vector256.Sum(sum + second);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static byte* Values(byte* row, int blocks) => row + blocks * (long)(TWeights.PlaceBytes + TWeights.ScaleCount * 2);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Add(Vector256<sbyte> w0, Vector256<sbyte> w1, byte* sizes, sbyte* codes, float* scales, int b, Vector256<float> sum)
    {
        Vector256<short> dot0 = Dot(w0, sizes, codes), dot1 = Dot(w1, sizes + 32, codes + 32);
        if (TWeights.ScaleCount == 2)
        {
            return AddHalf(dot1, scales[2 * b + 1], AddHalf(dot0, scales[2 * b], sum));
        }

        Vector256<int> dot = Avx2.MultiplyAddAdjacent(dot0, Vector256<short>.One) + Avx2.MultiplyAddAdjacent(dot1, Vector256<short>.One);
        return Fma.MultiplyAdd(Avx.ConvertToVector256Single(dot), Vector256.Create(scales[b]), sum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> AddHalf(Vector256<short> dot, float scale, Vector256<float> sum) =>
        Fma.MultiplyAdd(Avx.ConvertToVector256Single(Avx2.MultiplyAddAdjacent(dot, Vector256<short>.One)), Vector256.Create(scale), sum);

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
