using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>
/// int8 and int4 weights by inputs in 8 bits, summed in 16 and 32 bits (maddubs, madd): sizes of inputs times weights with their signs, or
/// inputs times code + 8. .NET 10 has no 512-bit VNNI.
/// </summary>
internal class Avx512IntegerKernel<TWeights> : RowKernel
    where TWeights : struct, IIntegers512
{
    private const int Room = BlockScales.Chunk * 2;

    [SkipLocalsInit]
    public override unsafe (float First, float Second) Pair(byte* first, byte* second, int columns, PackedInput x)
    {
        int blocks = x.Blocks;
        byte* v0 = Values(first, blocks), v1 = Values(second, blocks), place0 = first, place1 = second, sizes = x.Sizes;
        sbyte* signs = TWeights.IsOffset ? x.Codes : x.Signs;
        float* scales0 = stackalloc float[Room], scales1 = stackalloc float[Room];
        Vector512<float> sum0 = default, sum1 = default;
        float offset0 = 0, offset1 = 0;
        for (int start = 0; start < blocks; start += BlockScales.Chunk)
        {
            int count = Math.Min(BlockScales.Chunk, blocks - start);
            offset0 += Scales(first, x, 0, start, count, scales0);
            offset1 += Scales(second, x, 0, start, count, scales1);
            for (int b = 0; b < count; b++, place0 += TWeights.PlaceBytes, place1 += TWeights.PlaceBytes, sizes += 64, signs += 64)
            {
                sum0 = Add(TWeights.Take(place0, ref v0), sizes, signs, Scale(scales0, b), sum0);
                sum1 = Add(TWeights.Take(place1, ref v1), sizes, signs, Scale(scales1, b), sum1);
            }
        }

        return (Vector512.Sum(sum0) + offset0, Vector512.Sum(sum1) + offset1);
    }

    [SkipLocalsInit]
    public override unsafe void Four(byte* row, int columns, PackedInput x, int from, float* products)
    {
        int blocks = x.Blocks;
        long width = blocks * (long)RowCodec.Block;
        byte* values = Values(row, blocks), place = row, sizes = x.Sizes + from * width;
        sbyte* signs = (TWeights.IsOffset ? x.Codes : x.Signs) + from * width;
        float* scales = stackalloc float[Room * 4];
        Vector512<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int c = 0; c < 4; c++)
        {
            products[c] = 0;
        }

        for (int start = 0; start < blocks; start += BlockScales.Chunk)
        {
            int count = Math.Min(BlockScales.Chunk, blocks - start);
            for (int c = 0; c < 4; c++)
            {
                products[c] += Scales(row, x, from + c, start, count, scales + c * Room);
            }

            for (int b = 0; b < count; b++, place += TWeights.PlaceBytes, sizes += 64, signs += 64)
            {
                Vector512<sbyte> w = TWeights.Take(place, ref values);
                sum0 = Add(w, sizes, signs, Scale(scales, b), sum0);
                sum1 = Add(w, sizes + width, signs + width, Scale(scales + Room, b), sum1);
                sum2 = Add(w, sizes + 2 * width, signs + 2 * width, Scale(scales + 2 * Room, b), sum2);
                sum3 = Add(w, sizes + 3 * width, signs + 3 * width, Scale(scales + 3 * Room, b), sum3);
            }
        }

        products[0] += Vector512.Sum(sum0);
        products[1] += Vector512.Sum(sum1);
        products[2] += Vector512.Sum(sum2);
        products[3] += Vector512.Sum(sum3);
    }

    protected override unsafe void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        byte* values = Values(row, blocks), place = row;
        ushort* scales = (ushort*)(row + blocks * (long)TWeights.PlaceBytes);
        for (int b = 0; b < blocks; b++, place += TWeights.PlaceBytes, scales += TWeights.ScaleCount)
        {
            float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
            Vector512<sbyte> w = TWeights.Take(place, ref values);
            w = TWeights.IsOffset ? w - Vector512.Create((sbyte)8) : w;
            Write(w.GetLower(), TWeights.ScaleCount == 0 ? scale : Quantiser.FromBFloat16(scales[0]), block);
            Write(w.GetUpper(), TWeights.ScaleCount == 0 ? scale : Quantiser.FromBFloat16(scales[TWeights.ScaleCount - 1]), block + 32);
        }
    }

    /// <summary>Where a row's values begin.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    protected static unsafe byte* Values(byte* row, int blocks) => row + blocks * (long)(TWeights.PlaceBytes + TWeights.ScaleCount * 2);

    /// <summary>The products of scales of some blocks; what is to be added where weights are offset.</summary>
    protected static unsafe float Scales(byte* row, PackedInput x, int vector, int start, int count, float* products)
    {
        long block = vector * (long)x.Blocks + start;
        ushort* stored = (ushort*)(row + x.Blocks * (long)TWeights.PlaceBytes) + start * TWeights.ScaleCount;
        if (TWeights.ScaleCount == 0)
        {
            new ReadOnlySpan<float>(x.Scales + block, count).CopyTo(new Span<float>(products, count));
            return 0;
        }

        float offset = TWeights.ScaleCount == 1
            ? BlockScales.Multiply(stored, x.Scales + block, x.Offsets + block, count, products)
            : BlockScales.Multiply(stored, x.HalfScales + 2 * block, x.HalfOffsets + 2 * block, 2 * count, products);
        return TWeights.IsOffset ? offset : 0;
    }

    /// <summary>Adds a block's products: with signs of inputs, or with inputs where weights are offset.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    protected static unsafe Vector512<float> Add(Vector512<sbyte> w, byte* sizes, sbyte* signs, Vector512<float> scale, Vector512<float> sum)
    {
        Vector512<sbyte> sign = Vector512.Load(signs);
        Vector512<short> dot = TWeights.IsOffset
            ? Avx512BW.MultiplyAddAdjacent(w.AsByte(), sign)
            : Avx512BW.MultiplyAddAdjacent(Vector512.Load(sizes), (w ^ sign) - sign);
        return Avx512F.FusedMultiplyAdd(Avx512F.ConvertToVector512Single(Avx512BW.MultiplyAddAdjacent(dot, Vector512<short>.One)), scale, sum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe Vector512<float> Scale(float* scales, int b) => TWeights.ScaleCount == 2
        ? Vector512.Create(Vector256.Create(scales[2 * b]), Vector256.Create(scales[2 * b + 1]))
        : Vector512.Create(scales[b]);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void Write(Vector256<sbyte> w, float scale, float* to)
    {
        Vector512<float> by = Vector512.Create(scale);
        (Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(w.GetLower())) * by).Store(to);
        (Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(w.GetUpper())) * by).Store(to + 16);
    }
}
