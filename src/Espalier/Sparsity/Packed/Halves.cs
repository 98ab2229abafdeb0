using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Espalier.Sparsity.Packed;

/// <summary>How a 32-bit lane that holds two 16-bit weights becomes two floats: the lower (even column) and the upper (odd).</summary>
internal interface IHalves
{
    static abstract Vector128<float> Even(Vector128<uint> lanes);

    static abstract Vector128<float> Odd(Vector128<uint> lanes);

    static abstract Vector256<float> Even(Vector256<uint> lanes);

    static abstract Vector256<float> Odd(Vector256<uint> lanes);

    static abstract Vector512<float> Even(Vector512<uint> lanes);

    static abstract Vector512<float> Odd(Vector512<uint> lanes);
}

/// <summary>bfloat16 is the upper half of a float32.</summary>
internal readonly struct BFloat16Halves : IHalves
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Even(Vector128<uint> lanes) => (lanes << 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Odd(Vector128<uint> lanes) => (lanes & Vector128.Create(0xFFFF0000u)).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Even(Vector256<uint> lanes) => (lanes << 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Odd(Vector256<uint> lanes) => (lanes & Vector256.Create(0xFFFF0000u)).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Even(Vector512<uint> lanes) => (lanes << 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Odd(Vector512<uint> lanes) => (lanes & Vector512.Create(0xFFFF0000u)).AsSingle();
}

/// <summary>
/// float16: sign to the top, exponent and mantissa three bits down, then times 2¹¹² for the difference of the exponents' biases
/// (subnormal numbers come out right too). .NET has no instruction for it.
/// </summary>
internal readonly struct Float16Halves : IHalves
{
    private const float Bias = 5.192296858534828e33f;
    private const int Bits = unchecked((int)0x8FFFE000);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Even(Vector128<uint> lanes) => Odd(lanes << 16);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Odd(Vector128<uint> lanes) => ((lanes.AsInt32() >> 3) & Vector128.Create(Bits)).AsSingle() * Vector128.Create(Bias);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Even(Vector256<uint> lanes) => Odd(lanes << 16);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Odd(Vector256<uint> lanes) => ((lanes.AsInt32() >> 3) & Vector256.Create(Bits)).AsSingle() * Vector256.Create(Bias);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Even(Vector512<uint> lanes) => Odd(lanes << 16);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Odd(Vector512<uint> lanes) => ((lanes.AsInt32() >> 3) & Vector512.Create(Bits)).AsSingle() * Vector512.Create(Bias);
}
