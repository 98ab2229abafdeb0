using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>
/// int8 and int4 weights: 64 columns by one expand, then sizes of inputs times signed weights in 16 and 32 bits (maddubs, madd). .NET 10 has
/// no 512-bit VNNI.
/// </summary>
/// <param name="four">Whether weights have 4 bits.</param>
internal sealed unsafe class Avx512IntegerKernel(bool four) : RowKernel
{
    private readonly bool four = four;

    public override (float First, float Second) Pair(byte* first, byte* second, int columns, PackedInput x) =>
        four ? PairOf<FourBits>(first, second, x) : PairOf<EightBits>(first, second, x);

    public override void Four(byte* row, int columns, PackedInput x, int from, float* products)
    {
        if (four)
        {
            FourOf<FourBits>(row, x, from, products);
        }
        else
        {
            FourOf<EightBits>(row, x, from, products);
        }
    }

    private static (float First, float Second) PairOf<TBits>(byte* first, byte* second, PackedInput x)
        where TBits : struct, IBits
    {
        int blocks = x.Blocks;
        byte* scales0 = first + blocks * 8, scales1 = second + blocks * 8;
        byte* v0 = first + blocks * TBits.Header, v1 = second + blocks * TBits.Header;
        byte* sizes = x.Sizes;
        sbyte* signs = x.Signs;
        float* scales = x.Scales;
        Vector512<float> sum0 = default, sum1 = default;
        for (int b = 0; b < blocks; b++)
        {
            Vector512<byte> size = Vector512.Load(sizes + b * 64);
            Vector512<sbyte> sign = Vector512.Load(signs + b * 64);
            Vector512<sbyte> w0 = TBits.Take(((ulong*)first)[b], ref v0), w1 = TBits.Take(((ulong*)second)[b], ref v1);
            sum0 = Avx512F.FusedMultiplyAdd(Dot(w0, size, sign), Vector512.Create(TBits.Scale(scales0, b) * scales[b]), sum0);
            sum1 = Avx512F.FusedMultiplyAdd(Dot(w1, size, sign), Vector512.Create(TBits.Scale(scales1, b) * scales[b]), sum1);
        }

        return (Vector512.Sum(sum0), Vector512.Sum(sum1));
    }

    private static void FourOf<TBits>(byte* row, PackedInput x, int from, float* products)
        where TBits : struct, IBits
    {
        int blocks = x.Blocks;
        byte* values = row + blocks * TBits.Header, rowScales = row + blocks * 8;
        long width = blocks * RowCodec.Block;
        byte* sizes = x.Sizes + from * width;
        sbyte* signs = x.Signs + from * width;
        float* scales = x.Scales + from * blocks;
        Vector512<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int b = 0; b < blocks; b++, sizes += 64, signs += 64)
        {
            Vector512<sbyte> w = TBits.Take(((ulong*)row)[b], ref values);
            float scale = TBits.Scale(rowScales, b);
            sum0 = Avx512F.FusedMultiplyAdd(Dot(w, Vector512.Load(sizes), Vector512.Load(signs)), Vector512.Create(scale * scales[b]), sum0);
            sum1 = Avx512F.FusedMultiplyAdd(Dot(w, Vector512.Load(sizes + width), Vector512.Load(signs + width)), Vector512.Create(scale * scales[b + blocks]), sum1);
            sum2 = Avx512F.FusedMultiplyAdd(Dot(w, Vector512.Load(sizes + 2 * width), Vector512.Load(signs + 2 * width)), Vector512.Create(scale * scales[b + 2 * blocks]), sum2);
            sum3 = Avx512F.FusedMultiplyAdd(Dot(w, Vector512.Load(sizes + 3 * width), Vector512.Load(signs + 3 * width)), Vector512.Create(scale * scales[b + 3 * blocks]), sum3);
        }

        (products[0], products[1], products[2], products[3]) = (Vector512.Sum(sum0), Vector512.Sum(sum1), Vector512.Sum(sum2), Vector512.Sum(sum3));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Dot(Vector512<sbyte> w, Vector512<byte> size, Vector512<sbyte> sign) =>
        Avx512F.ConvertToVector512Single(Avx512BW.MultiplyAddAdjacent(Avx512BW.MultiplyAddAdjacent(size, (w ^ sign) - sign), Vector512<short>.One));

    private interface IBits
    {
        /// <summary>The bytes of masks and scales per block.</summary>
        static abstract int Header { get; }

        /// <summary>The 64 weights of a block at their columns; moves the address behind them.</summary>
        static abstract Vector512<sbyte> Take(ulong mask, ref byte* values);

        /// <summary>The scale of a block's weights.</summary>
        static abstract float Scale(byte* scales, int block);
    }

    private readonly struct EightBits : IBits
    {
        public static int Header => 8;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Vector512<sbyte> Take(ulong mask, ref byte* values)
        {
            Vector512<byte> all = Vector512.Load(values);
            values += BitOperations.PopCount(mask);
            return Expand512.Bytes(mask, all);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static float Scale(byte* scales, int block) => 1;
    }

    private readonly struct FourBits : IBits
    {
        public static int Header => 10;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Vector512<sbyte> Take(ulong mask, ref byte* values)
        {
            Vector512<byte> decode = Vector512.Create(0x0706050403020100ul, 0xFFFEFDFCFBFAF9F8, 0x0706050403020100, 0xFFFEFDFCFBFAF9F8, 0x0706050403020100, 0xFFFEFDFCFBFAF9F8, 0x0706050403020100, 0xFFFEFDFCFBFAF9F8).AsByte();
            Vector512<ushort> wide = Avx512BW.ConvertToVector512UInt16(Vector256.Load(values));
            values += (BitOperations.PopCount(mask) + 1) >> 1;
            return Expand512.Bytes(mask, Avx512BW.Shuffle(decode, ((wide | wide << 4) & Vector512.Create((ushort)0x0F0F)).AsByte()));
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static float Scale(byte* scales, int block) => Quantiser.FromBFloat16(((ushort*)scales)[block]);
    }
}
