using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;

namespace Espalier.Sparsity.Packed;

/// <summary>int8 and int4 weights by inputs in 8 bits: dot products of bytes where the processor has them, else widening products.</summary>
internal sealed unsafe class NeonIntegerKernel<TWeights> : PairKernel
    where TWeights : struct, IIntegersNeon
{
    // A block's bytes and what is stored beyond the last.
    private const int Room = (BlockScales.Chunk * RowCodec.Block) + 64;

    [SkipLocalsInit]
    public override void Four(byte* row, int columns, PackedInput x, int from, float* products)
    {
        long width = x.Blocks * (long)RowCodec.Block;
        byte* room = stackalloc byte[Room], places = row, values = Values(row, x.Blocks);
        float* scales = stackalloc float[BlockScales.Chunk * 8];
        new Span<float>(products, 4).Clear();
        for (int start = 0; start < x.Blocks; start += BlockScales.Chunk)
        {
            int count = Math.Min(BlockScales.Chunk, x.Blocks - start);
            byte* opened = TWeights.Open(places, ref values, count, room), next = opened;
            for (int c = 0; c < 4; c++)
            {
                BlockScales.OfRow(row, TWeights.PlaceBytes, TWeights.ScaleCount, x, from + c, start, count, scales + (c * BlockScales.Chunk * 2));
            }

            sbyte* codes = x.Codes + (from * width) + (start * 64L);
            for (int b = 0; b < count; b++, places += TWeights.PlaceBytes, codes += 64)
            {
                Block64 w = TWeights.Take(places, ref next);
                for (int c = 0; c < 4; c++)
                {
                    products[c] += Vector128.Sum(Add(w, codes + (c * width), scales + (c * BlockScales.Chunk * 2), b, default));
                }
            }

            values = opened == room ? values : next;
        }
    }

    protected override (float First, float Second) Pair(byte* first, byte* second, PackedInput x, byte* ahead) => (One(first, x), One(second, x));

    [SkipLocalsInit]
    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        byte* room = stackalloc byte[Room], places = row, values = Values(row, blocks);
        ushort* scales = (ushort*)(row + (blocks * (long)TWeights.PlaceBytes));
        for (int start = 0; start < blocks; start += BlockScales.Chunk)
        {
            int count = Math.Min(BlockScales.Chunk, blocks - start);
            byte* opened = TWeights.Open(places, ref values, count, room), next = opened;
            for (int b = start; b < start + count; b++, places += TWeights.PlaceBytes, scales += TWeights.ScaleCount)
            {
                float* block = b < blocks - 1 ? to + (b * (long)RowCodec.Block) : last;
                Block64 w = TWeights.Take(places, ref next);
                float low = TWeights.ScaleCount == 0 ? scale : Quantiser.FromBFloat16(scales[0]), high = TWeights.ScaleCount == 0 ? scale : Quantiser.FromBFloat16(scales[TWeights.ScaleCount - 1]);
                Write(w.A, low, block);
                Write(w.B, low, block + 16);
                Write(w.C, high, block + 32);
                Write(w.D, high, block + 48);
            }

            values = opened == room ? values : next;
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
            BlockScales.OfRow(row, TWeights.PlaceBytes, TWeights.ScaleCount, x, 0, start, count, scales);
            sum += Part(places, ref next, x.Codes + (start * 64L), scales, count);
            values = opened == room ? values : next;
        }

        return sum;
    }

    // Without calls, so that sums stay in registers.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static float Part(byte* places, ref byte* opened, sbyte* codes, float* scales, int count)
    {
        byte* from = opened;
        Vector128<float> sum = default;
        for (int b = 0; b < count; b++, places += TWeights.PlaceBytes, codes += 64)
        {
            sum = Add(TWeights.Take(places, ref from), codes, scales, b, sum);
        }

        opened = from;
        return Vector128.Sum(sum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static byte* Values(byte* row, int blocks) => row + (blocks * (long)(TWeights.PlaceBytes + (TWeights.ScaleCount * 2)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Add(in Block64 w, sbyte* codes, float* scales, int b, Vector128<float> sum)
    {
        Vector128<int> first = Dot(w.B, codes + 16, Dot(w.A, codes, default));
        if (TWeights.ScaleCount == 2)
        {
            Vector128<int> second = Dot(w.D, codes + 48, Dot(w.C, codes + 32, default));
            sum = AdvSimd.FusedMultiplyAdd(sum, AdvSimd.ConvertToSingle(first), Vector128.Create(scales[2 * b]));
            return AdvSimd.FusedMultiplyAdd(sum, AdvSimd.ConvertToSingle(second), Vector128.Create(scales[(2 * b) + 1]));
        }

        Vector128<int> all = Dot(w.D, codes + 48, Dot(w.C, codes + 32, first));
        return AdvSimd.FusedMultiplyAdd(sum, AdvSimd.ConvertToSingle(all), Vector128.Create(scales[b]));
    }

    // Two products of at most 127² fit into 16 bits.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<int> Dot(Vector128<sbyte> w, sbyte* codes, Vector128<int> sum)
    {
        Vector128<sbyte> x = Vector128.Load(codes);
        return Dp.IsSupported
            ? Dp.DotProduct(sum, w, x)
            : AdvSimd.AddPairwiseWideningAndAdd(sum, AdvSimd.MultiplyWideningUpperAndAdd(AdvSimd.MultiplyWideningLower(w.GetLower(), x.GetLower()), w, x));
    }

    private static void Write(Vector128<sbyte> w, float scale, float* to)
    {
        Vector128<float> by = Vector128.Create(scale);
        (Vector128<short> low, Vector128<short> high) = Vector128.Widen(w);
        (Vector128<int> a, Vector128<int> b) = Vector128.Widen(low);
        (Vector128<int> c, Vector128<int> d) = Vector128.Widen(high);
        (AdvSimd.ConvertToSingle(a) * by).Store(to);
        (AdvSimd.ConvertToSingle(b) * by).Store(to + 4);
        (AdvSimd.ConvertToSingle(c) * by).Store(to + 8);
        (AdvSimd.ConvertToSingle(d) * by).Store(to + 12);
    }
}

/// <summary>The weights of 64 columns.</summary>
internal readonly struct Block64(Vector128<sbyte> a, Vector128<sbyte> b, Vector128<sbyte> c, Vector128<sbyte> d)
{
    public Vector128<sbyte> A { get; } = a;

    public Vector128<sbyte> B { get; } = b;

    public Vector128<sbyte> C { get; } = c;

    public Vector128<sbyte> D { get; } = d;
}
