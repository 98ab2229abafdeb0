using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.PackedRoutes;

/// <summary>The routes that were weighed against each other before the kernels were written; each makes the dot product of some rows with one vector.</summary>
/// <remarks>
/// Rows lie as masks first, then values ("M": the mask address is known beforehand) or block by block ("B": 64 bits, then their values).
/// </remarks>
internal static unsafe class Routes
{
    private static readonly byte* WordTable = Table(16, 2), ByteTable = Table(8, 1), HighByteTable = Table(8, 1, 8);

    /// <summary>Where each of eight columns finds its value among those kept: 0x80 (pshufb: zero) where none was.</summary>
    private static byte* Table(int width, int size, int shift = 0)
    {
        byte* table = (byte*)NativeMemory.AlignedAlloc((nuint)(256 * width), 64);
        for (int mask = 0; mask < 256; mask++)
        {
            for (int column = 0, next = 0; column < 8; column++)
            {
                bool kept = (mask >> column & 1) != 0;
                for (int b = 0; b < size; b++)
                {
                    table[mask * width + column * size + b] = kept ? (byte)(next * size + b + shift) : (byte)0x80;
                }

                next += kept ? 1 : 0;
            }
        }

        return table;
    }

    /// <summary>bf16, plain: for each set bit one multiply.</summary>
    public static float Bf16Naive(byte* row, int blocks, float* x)
    {
        float sum = 0;
        ulong* masks = (ulong*)row;
        ushort* v = (ushort*)(masks + blocks);
        for (int b = 0; b < blocks; b++)
        {
            for (ulong m = masks[b]; m != 0; m &= m - 1)
            {
                sum += BitConverter.UInt32BitsToSingle((uint)*v++ << 16) * x[b * 64 + BitOperations.TrailingZeroCount(m)];
            }
        }

        return sum;
    }

    /// <summary>bf16, AVX2: eight columns by one pshufb, even and odd columns apart.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Bf16Avx2(byte* row, int blocks, float* x)
    {
        Vector256<float> even = default, odd = default;
        byte* masks = row, v = row + blocks * 8;
        for (int b = 0; b < blocks * 4; b++)
        {
            uint m0 = masks[b * 2], m1 = masks[b * 2 + 1];
            byte* v1 = v + BitOperations.PopCount(m0) * 2;
            Vector256<byte> values = Vector256.Create(Vector128.Load(v), Vector128.Load(v1));
            Vector256<byte> order = Vector256.Create(Vector128.Load(WordTable + m0 * 16), Vector128.Load(WordTable + m1 * 16));
            v = v1 + BitOperations.PopCount(m1) * 2;
            Vector256<uint> w = Avx2.Shuffle(values, order).AsUInt32();
            int at = (b >> 2) * 64 + (b & 3) * 8;
            even = Fma.MultiplyAdd((w << 16).AsSingle(), Vector256.Load(x + at), even);
            odd = Fma.MultiplyAdd((w & Vector256.Create(0xFFFF0000u)).AsSingle(), Vector256.Load(x + at + 32), odd);
        }

        return Vector256.Sum(even + odd);
    }

    private static readonly Vector512<byte> SpreadWords = Vector512.Create(
        Vector256.Create(Vector128.Create((byte)0), Vector128.Create((byte)1)), Vector256.Create(Vector128.Create((byte)2), Vector128.Create((byte)3)));

    private static readonly Vector512<ushort> WordBits = Vector512.Create(Vector128.Create(1, 2, 4, 8, 16, 32, 64, (ushort)128));

    private static readonly Vector512<byte> SpreadBytes = Vector512.Create(
        0x0000000000000000ul, 0x0101010101010101ul, 0x0202020202020202ul, 0x0303030303030303ul,
        0x0404040404040404ul, 0x0505050505050505ul, 0x0606060606060606ul, 0x0707070707070707ul).AsByte();

    private static readonly Vector512<byte> ByteBits = Vector512.Create(0x8040201008040201ul).AsByte();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<ushort> Mask32(byte* at) =>
        Vector512.Equals(Avx512BW.Shuffle(Vector512.Create(*(uint*)at).AsByte(), SpreadWords).AsUInt16() & WordBits, WordBits);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<byte> Mask64(byte* at) =>
        Vector512.Equals(Avx512BW.Shuffle(Vector512.Create(*(ulong*)at).AsByte(), SpreadBytes) & ByteBits, ByteBits);

    /// <summary>bf16, AVX-512: expand from memory (M) one row at a time.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Bf16ExpandLoad(byte* row, int blocks, float* x)
    {
        Vector512<float> even = default, odd = default;
        byte* masks = row, v = row + blocks * 8;
        for (int b = 0; b < blocks * 2; b++, masks += 4)
        {
            Vector512<uint> w = Avx512Vbmi2.ExpandLoad((ushort*)v, Mask32(masks), Vector512<ushort>.Zero).AsUInt32();
            v += BitOperations.PopCount(*(uint*)masks) * 2;
            int at = (b >> 1) * 64 + (b & 1) * 16;
            even = AddProduct(w << 16, x + at, even);
            odd = AddProduct(w & Vector512.Create(0xFFFF0000u), x + at + 32, odd);
        }

        return Vector512.Sum(even + odd);
    }

    /// <summary>bf16, AVX-512: load, then expand in the register (M).</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Bf16Expand(byte* row, int blocks, float* x)
    {
        Vector512<float> even = default, odd = default;
        byte* masks = row, v = row + blocks * 8;
        for (int b = 0; b < blocks * 2; b++, masks += 4)
        {
            Vector512<uint> w = Avx512Vbmi2.Expand(Vector512<ushort>.Zero, Mask32(masks), Vector512.Load((ushort*)v)).AsUInt32();
            v += BitOperations.PopCount(*(uint*)masks) * 2;
            int at = (b >> 1) * 64 + (b & 1) * 16;
            even = AddProduct(w << 16, x + at, even);
            odd = AddProduct(w & Vector512.Create(0xFFFF0000u), x + at + 32, odd);
        }

        return Vector512.Sum(even + odd);
    }

    /// <summary>bf16, AVX-512: the same with each mask before its values (B).</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Bf16ExpandBlocks(byte* row, int blocks, float* x)
    {
        Vector512<float> even = default, odd = default;
        for (int b = 0; b < blocks; b++, x += 64)
        {
            byte* v = row + 8;
            Vector512<uint> w = Avx512Vbmi2.Expand(Vector512<ushort>.Zero, Mask32(row), Vector512.Load((ushort*)v)).AsUInt32();
            v += BitOperations.PopCount(*(uint*)row) * 2;
            even = AddProduct(w << 16, x, even);
            odd = AddProduct(w & Vector512.Create(0xFFFF0000u), x + 32, odd);
            w = Avx512Vbmi2.Expand(Vector512<ushort>.Zero, Mask32(row + 4), Vector512.Load((ushort*)v)).AsUInt32();
            even = AddProduct(w << 16, x + 16, even);
            odd = AddProduct(w & Vector512.Create(0xFFFF0000u), x + 48, odd);
            row += 8 + BitOperations.PopCount(*(ulong*)row) * 2;
        }

        return Vector512.Sum(even + odd);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> AddProduct(Vector512<uint> w, float* x, Vector512<float> sum) =>
        Avx512F.FusedMultiplyAdd(w.AsSingle(), Vector512.Load(x), sum);

    /// <summary>int8, AVX2, route A: two 8-byte shuffles out of a 2 KB table make 16 columns; signs of the inputs go to the weights.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Int8Avx2(byte* row, int blocks, float* input)
    {
        Quantised x = new(input, blocks);
        byte* masks = row, v = row + blocks * 8;
        Vector256<float> sum = default;
        for (int b = 0; b < blocks; b++, masks += 8)
        {
            Vector256<int> dot = default;
            for (int h = 0; h < 8; h += 4)
            {
                Vector128<byte> low = Sixteen(masks + h, ref v), high = Sixteen(masks + h + 2, ref v);
                dot = Dot(Vector256.Create(low, high), x.Size + b * 64 + h * 8, x.Signed + b * 64 + h * 8, dot);
            }

            sum = Fma.MultiplyAdd(Avx.ConvertToVector256Single(dot), Vector256.Create(x.Scale[b]), sum);
        }

        return Vector256.Sum(sum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<byte> Sixteen(byte* masks, ref byte* v)
    {
        uint m0 = masks[0], m1 = masks[1];
        byte* v1 = v + BitOperations.PopCount(m0);
        Vector128<byte> values = Sse2.LoadHigh(Vector128.CreateScalar(*(ulong*)v).AsDouble(), (double*)v1).AsByte();
        Vector128<byte> order = Sse2.LoadHigh(Vector128.CreateScalar(*(ulong*)(ByteTable + m0 * 8)).AsDouble(), (double*)(HighByteTable + m1 * 8)).AsByte();
        v = v1 + BitOperations.PopCount(m1);
        return Ssse3.Shuffle(values, order);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Dot(Vector256<byte> w, byte* size, sbyte* signed, Vector256<int> sum) =>
        sum + Avx2.MultiplyAddAdjacent(
            Avx2.MultiplyAddAdjacent(Vector256.Load(size), Avx2.Sign(w.AsSByte(), Vector256.Load(signed))), Vector256<short>.One);

    /// <summary>int8, AVX-512: 64 columns by one expand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Int8Expand(byte* row, int blocks, float* input)
    {
        Quantised x = new(input, blocks);
        byte* masks = row, v = row + blocks * 8;
        Vector512<float> sum = default;
        for (int b = 0; b < blocks; b++, masks += 8)
        {
            Vector512<sbyte> w = Avx512Vbmi2.Expand(Vector512<byte>.Zero, Mask64(masks), Vector512.Load(v)).AsSByte();
            v += BitOperations.PopCount(*(ulong*)masks);
            sum = Avx512F.FusedMultiplyAdd(Avx512F.ConvertToVector512Single(Dot(w, x, b)), Vector512.Create(x.Scale[b]), sum);
        }

        return Vector512.Sum(sum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Dot(Vector512<sbyte> w, Quantised x, int b)
    {
        Vector512<sbyte> sign = Vector512.Load(x.Sign + b * 64);
        return Avx512BW.MultiplyAddAdjacent(Avx512BW.MultiplyAddAdjacent(Vector512.Load(x.Size + b * 64), (w ^ sign) - sign), Vector512<short>.One);
    }

    /// <summary>int4, AVX-512: nibbles to bytes, then as int8. A block's nibbles begin on a byte.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Int4Expand(byte* row, int blocks, float* input)
    {
        Quantised x = new(input, blocks);
        byte* masks = row, scales = row + blocks * 8, v = scales + blocks * 2;
        Vector512<float> sum = default;
        Vector512<byte> decode = Vector512.Create(Vector128.Create(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, (sbyte)-1)).AsByte();
        for (int b = 0; b < blocks; b++, masks += 8)
        {
            Vector512<ushort> wide = Avx512BW.ConvertToVector512UInt16(Vector256.Load(v));
            Vector512<byte> codes = Avx512BW.Shuffle(decode, ((wide | wide << 4) & Vector512.Create((ushort)0x0F0F)).AsByte());
            Vector512<sbyte> w = Avx512Vbmi2.Expand(Vector512<byte>.Zero, Mask64(masks), codes).AsSByte();
            v += (BitOperations.PopCount(*(ulong*)masks) + 1) >> 1;
            float scale = BitConverter.UInt32BitsToSingle((uint)((ushort*)scales)[b] << 16) * x.Scale[b];
            sum = Avx512F.FusedMultiplyAdd(Avx512F.ConvertToVector512Single(Dot(w, x, b)), Vector512.Create(scale), sum);
        }

        return Vector512.Sum(sum);
    }

    /// <summary>int4, AVX2, route B: one pdep widens 16 mask bits to nibbles, another drops the packed nibbles into place.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Int4Pdep(byte* row, int blocks, float* input)
    {
        Quantised x = new(input, blocks);
        byte* masks = row, scales = row + blocks * 8, v = scales + blocks * 2;
        Vector256<float> sum = default;
        for (int b = 0; b < blocks; b++, masks += 8)
        {
            Vector256<int> dot = default;
            int nibble = 0;
            for (int h = 0; h < 4; h += 2)
            {
                Vector128<byte> low = Nibbles(v, ((ushort*)masks)[h], ref nibble), high = Nibbles(v, ((ushort*)masks)[h + 1], ref nibble);
                dot = Dot(Vector256.Create(low, high), x.Size + b * 64 + h * 16, x.Signed + b * 64 + h * 16, dot);
            }

            v += (nibble + 1) >> 1;
            float scale = BitConverter.UInt32BitsToSingle((uint)((ushort*)scales)[b] << 16) * x.Scale[b];
            sum = Fma.MultiplyAdd(Avx.ConvertToVector256Single(dot), Vector256.Create(scale), sum);
        }

        return Vector256.Sum(sum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<byte> Nibbles(byte* block, ulong mask, ref int nibble)
    {
        byte* at = block + (nibble >> 1);
        int odd = (nibble & 1) * 4;
        ulong packed = *(ulong*)at >> odd | (ulong)at[8] << 60 & (ulong)-(long)(odd >> 2);
        nibble += BitOperations.PopCount(mask);
        ulong codes = Bmi2.X64.ParallelBitDeposit(packed, Bmi2.X64.ParallelBitDeposit(mask, 0x1111111111111111) * 15);
        Vector128<byte> both = Vector128.CreateScalar(codes).AsByte();
        Vector128<byte> bytes = Sse2.UnpackLow(both & Vector128.Create((byte)0x0F), (both.AsUInt16() >>> 4).AsByte() & Vector128.Create((byte)0x0F));
        return Ssse3.Shuffle(Vector128.Create(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, (sbyte)-1).AsByte(), bytes);
    }

    /// <summary>int4, AVX2: a row's nibbles to bytes in a buffer of its size, then route A.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Int4Unpacked(byte* row, int blocks, float* input)
    {
        Quantised x = new(input, blocks);
        byte* masks = row, scales = row + blocks * 8, v = scales + blocks * 2;
        byte* bytes = Quantised.Scratch;
        Vector256<byte> decode = Vector256.Create(Vector128.Create(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, (sbyte)-1)).AsByte();
        for (int b = 0; b < blocks; b++)
        {
            int count = BitOperations.PopCount(((ulong*)masks)[b]);
            for (int at = 0; at < count; at += 32)
            {
                Vector256<ushort> wide = Avx2.ConvertToVector256Int16(v + at / 2).AsUInt16();
                Avx2.Shuffle(decode, ((wide | wide << 4) & Vector256.Create((ushort)0x0F0F)).AsByte()).Store(bytes + at);
            }

            bytes += count;
            v += (count + 1) >> 1;
        }

        v = Quantised.Scratch;
        Vector256<float> sum = default;
        for (int b = 0; b < blocks; b++, masks += 8)
        {
            Vector256<int> dot = default;
            for (int h = 0; h < 8; h += 4)
            {
                Vector128<byte> low = Sixteen(masks + h, ref v), high = Sixteen(masks + h + 2, ref v);
                dot = Dot(Vector256.Create(low, high), x.Size + b * 64 + h * 8, x.Signed + b * 64 + h * 8, dot);
            }

            float scale = BitConverter.UInt32BitsToSingle((uint)((ushort*)scales)[b] << 16) * x.Scale[b];
            sum = Fma.MultiplyAdd(Avx.ConvertToVector256Single(dot), Vector256.Create(scale), sum);
        }

        return Vector256.Sum(sum);
    }

    /// <summary>int8 inputs as the routes read them: |x|, the sign as 0 or -1, x, and a scale per 64. (Only time is measured, so the bytes are any.)</summary>
    internal readonly struct Quantised(float* x, int blocks)
    {
        public static readonly byte* Scratch = (byte*)NativeMemory.AlignedAlloc(1 << 16, 64);

        public byte* Size { get; } = (byte*)x;

        public sbyte* Sign { get; } = (sbyte*)x + blocks * 64;

        public sbyte* Signed { get; } = (sbyte*)x + blocks * 128;

        public float* Scale { get; } = x + blocks * 48;
    }
}
