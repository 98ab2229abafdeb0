using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>
/// int8 and int4 weights: per 16 columns two 8-byte orders out of tables make one byte shuffle; then signed weights by sizes of inputs
/// (sign, maddubs, madd). Of int4 the 64 weights of a block become bytes first.
/// </summary>
internal sealed unsafe class Avx2IntegerKernel(bool four) : RowKernel
{
    private readonly bool four = four;

    public override (float First, float Second) Pair(byte* first, byte* second, int columns, PackedInput x) => four
        ? (One<FourBits>(first, x, 0), One<FourBits>(second, x, 0))
        : (One<EightBits>(first, x, 0), One<EightBits>(second, x, 0));

    public override void Four(byte* row, int columns, PackedInput x, int from, float* products)
    {
        for (int c = 0; c < 4; c++)
        {
            products[c] = four ? One<FourBits>(row, x, from + c) : One<EightBits>(row, x, from + c);
        }
    }

    private static float One<TBits>(byte* row, PackedInput x, int vector)
        where TBits : struct, IBits
    {
        int blocks = x.Blocks;
        byte* low = ExpandTables.Low, high = ExpandTables.High, masks = row, rowScales = row + blocks * 8, values = row + blocks * TBits.Header;
        long from = (long)vector * blocks * RowCodec.Block;
        byte* sizes = x.Sizes + from;
        sbyte* codes = x.Codes + from;
        float* scales = x.Scales + (long)vector * blocks;
        byte* room = stackalloc byte[96];
        Vector256<float> sum = default;
        for (int b = 0; b < blocks; b++, masks += 8, sizes += 64, codes += 64)
        {
            byte* v = TBits.Open(*(ulong*)masks, ref values, room);
            Vector256<sbyte> w0 = Vector256.Create(Take(low, high, masks, ref v), Take(low, high, masks + 2, ref v)).AsSByte();
            Vector256<sbyte> w1 = Vector256.Create(Take(low, high, masks + 4, ref v), Take(low, high, masks + 6, ref v)).AsSByte();
            Vector256<int> dot = Dot(w0, sizes, codes) + Dot(w1, sizes + 32, codes + 32);
            sum = Fma.MultiplyAdd(Avx.ConvertToVector256Single(dot), Vector256.Create(TBits.Scale(rowScales, b) * scales[b]), sum);
        }

        return Vector256.Sum(sum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<byte> Take(byte* low, byte* high, byte* masks, ref byte* values)
    {
        uint m0 = masks[0], m1 = masks[1];
        byte* next = values + BitOperations.PopCount(m0);
        Vector128<byte> both = Sse2.LoadHigh(Vector128.CreateScalar(*(ulong*)values).AsDouble(), (double*)next).AsByte();
        Vector128<byte> order = Sse2.LoadHigh(Vector128.CreateScalar(*(ulong*)(low + m0 * 8)).AsDouble(), (double*)(high + m1 * 8)).AsByte();
        values = next + BitOperations.PopCount(m1);
        return Ssse3.Shuffle(both, order);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Dot(Vector256<sbyte> w, byte* sizes, sbyte* codes) =>
        Avx2.MultiplyAddAdjacent(Avx2.MultiplyAddAdjacent(Vector256.Load(sizes), Avx2.Sign(w, Vector256.Load(codes))), Vector256<short>.One);

    private interface IBits
    {
        /// <summary>The bytes of masks and scales per block.</summary>
        static abstract int Header { get; }

        /// <summary>Where the weights of a block lie as bytes; moves the address behind them.</summary>
        static abstract byte* Open(ulong mask, ref byte* values, byte* room);

        /// <summary>The scale of a block's weights.</summary>
        static abstract float Scale(byte* scales, int block);
    }

    private readonly struct EightBits : IBits
    {
        public static int Header => 8;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static byte* Open(ulong mask, ref byte* values, byte* room)
        {
            byte* here = values;
            values += BitOperations.PopCount(mask);
            return here;
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static float Scale(byte* scales, int block) => 1;
    }

    private readonly struct FourBits : IBits
    {
        public static int Header => 10;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static byte* Open(ulong mask, ref byte* values, byte* room)
        {
            Vector256<byte> decode = Vector256.Create(0x0706050403020100ul, 0xFFFEFDFCFBFAF9F8, 0x0706050403020100, 0xFFFEFDFCFBFAF9F8).AsByte();
            int count = BitOperations.PopCount(mask);
            for (int at = 0; at < count; at += 32)
            {
                Vector256<ushort> wide = Avx2.ConvertToVector256Int16(values + at / 2).AsUInt16();
                Avx2.Shuffle(decode, ((wide | wide << 4) & Vector256.Create((ushort)0x0F0F)).AsByte()).Store(room + at);
            }

            values += (count + 1) >> 1;
            return room;
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static float Scale(byte* scales, int block) => Quantiser.FromBFloat16(((ushort*)scales)[block]);
    }
}
