using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;
using Espalier.Runtime;

namespace Espalier.Sparsity.Packed;

/// <summary>The instruction sets that kernels are written for.</summary>
public enum KernelSet
{
    /// <summary>Plain code, everywhere.</summary>
    Scalar,

    /// <summary>AVX2 with FMA.</summary>
    Avx2,

    /// <summary>AVX-512 F, BW, VBMI and VBMI2 (Ice Lake, Zen 4 and later).</summary>
    Avx512,

    /// <summary>64-bit ARM with its vectors, and dot products of bytes where it has them.</summary>
    Neon,
}

/// <summary>Chooses the kernels once, at the first product: the best set of this processor, or the one that <c>ESPALIER_KERNELS</c> names.</summary>
public static class PackedKernels
{
    /// <summary>The environment variable: scalar, avx2, avx512 or neon.</summary>
    public const string Variable = "ESPALIER_KERNELS";

    private static readonly Dictionary<(KernelSet, MatrixCode, PackedType), RowKernel> Kernels = (
        from set in Enum.GetValues<KernelSet>().Where(IsSupported)
        from code in Enum.GetValues<MatrixCode>()
        from type in Enum.GetValues<PackedType>().Where(t => MatrixCodes.Has(code, t))
        select (Key: (set, code, type), Kernel: Make(set, code, type))).ToDictionary(k => k.Key, k => k.Kernel);

    private static readonly Lazy<KernelSet> Choice = new(() => Choose(Environment.GetEnvironmentVariable(Variable)));

    /// <summary>The set in use.</summary>
    /// <exception cref="EspalierException">When the variable names none, or one that this processor lacks.</exception>
    public static KernelSet Current => Choice.Value;

    /// <summary>The sets that this processor can run.</summary>
    public static IReadOnlyList<KernelSet> Supported { get; } = [.. Enum.GetValues<KernelSet>().Where(IsSupported)];

    /// <summary>The word for a set.</summary>
    public static string WordOf(KernelSet set) => set.ToString().ToLowerInvariant();

    /// <summary>What a value of the variable means here.</summary>
    /// <exception cref="EspalierException">When it names no set, or one that this processor lacks.</exception>
    internal static KernelSet Choose(string? word)
    {
        if (string.IsNullOrWhiteSpace(word))
        {
            return Supported[^1];
        }

        string known = string.Join(", ", Supported.Select(WordOf));
        KernelSet[] named = [.. Enum.GetValues<KernelSet>().Where(s => WordOf(s) == word)];
        EspalierException.Require(named.Length == 1, $"{Variable} is '{word}', which is no set of kernels; this processor has {known}.");
        EspalierException.Require(IsSupported(named[0]), $"{Variable} is '{word}', but this processor has only {known}; unset it or name one of these.");
        return named[0];
    }

    internal static RowKernel For(KernelSet set, PackedMatrix matrix) => Kernels[(set, matrix.Code, matrix.Type)];

    private static bool IsSupported(KernelSet set) => set switch
    {
        KernelSet.Scalar => true,
        KernelSet.Neon => AdvSimd.Arm64.IsSupported,
        KernelSet.Avx2 => Avx2.IsSupported && Fma.IsSupported && Popcnt.IsSupported,
        _ => Avx512F.IsSupported && Avx512BW.IsSupported && Avx512Vbmi.IsSupported && Avx512Vbmi2.IsSupported,
    };

    private static RowKernel Make(KernelSet set, MatrixCode code, PackedType type) => (set, code) switch
    {
        (KernelSet.Scalar, _) => new ScalarKernel(code, type),
        (KernelSet.Avx2, MatrixCode.Bitmask) => type switch
        {
            PackedType.Float32 => new Avx2FloatKernel<Masks256>(),
            PackedType.BFloat16 => new Avx2HalfKernel<BFloat16Halves, Masks256>(),
            PackedType.Float16 => new Avx2HalfKernel<Float16Halves, Masks256>(),
            PackedType.Int8 => new Avx2IntegerKernel<MaskedBytes256>(),
            _ => new Avx2IntegerKernel<MaskedNibbles256>(),
        },
        (KernelSet.Avx2, MatrixCode.Dense) => type switch
        {
            PackedType.Float32 => new Avx2FloatKernel<Dense256>(),
            PackedType.BFloat16 => new Avx2HalfKernel<BFloat16Halves, Dense256>(),
            PackedType.Float16 => new Avx2HalfKernel<Float16Halves, Dense256>(),
            PackedType.Int8 => new Avx2IntegerKernel<DenseBytes256>(),
            _ => new Avx2IntegerKernel<DenseNibbles256>(),
        },
        (KernelSet.Avx2, _) => type is PackedType.Int8 ? new Avx2IntegerKernel<GroupBytes256>() : new Avx2IntegerKernel<GroupNibbles256>(),
        (KernelSet.Neon, MatrixCode.Bitmask) => type switch
        {
            PackedType.Float32 => new NeonFloatKernel<MasksNeon>(),
            PackedType.BFloat16 => new NeonHalfKernel<BFloat16Halves, MasksNeon>(),
            PackedType.Float16 => new NeonHalfKernel<Float16Halves, MasksNeon>(),
            PackedType.Int8 => new NeonIntegerKernel<MaskedBytesNeon>(),
            _ => new NeonIntegerKernel<MaskedNibblesNeon>(),
        },
        (KernelSet.Neon, MatrixCode.Dense) => type switch
        {
            PackedType.Float32 => new NeonFloatKernel<DenseNeon>(),
            PackedType.BFloat16 => new NeonHalfKernel<BFloat16Halves, DenseNeon>(),
            PackedType.Float16 => new NeonHalfKernel<Float16Halves, DenseNeon>(),
            PackedType.Int8 => new NeonIntegerKernel<DenseBytesNeon>(),
            _ => new NeonIntegerKernel<DenseNibblesNeon>(),
        },
        (KernelSet.Neon, _) => type is PackedType.Int8 ? new NeonIntegerKernel<GroupBytesNeon>() : new NeonIntegerKernel<GroupNibblesNeon>(),
        (_, MatrixCode.Bitmask) => type switch
        {
            PackedType.Float32 => new Avx512FloatKernel<Masks512>(),
            PackedType.BFloat16 => new Avx512HalfKernel<BFloat16Halves, Masks512>(),
            PackedType.Float16 => new Avx512HalfKernel<Float16Halves, Masks512>(),
            PackedType.Int8 => new Avx512IntegerKernel<MaskedBytes512>(),
            _ => new Avx512IntegerKernel<MaskedNibbles512>(),
        },
        (_, MatrixCode.Dense) => type switch
        {
            PackedType.Float32 => new Avx512FloatKernel<Dense512>(),
            PackedType.BFloat16 => new Avx512HalfKernel<BFloat16Halves, Dense512>(),
            PackedType.Float16 => new Avx512HalfKernel<Float16Halves, Dense512>(),
            PackedType.Int8 => new Avx512IntegerKernel<DenseBytes512>(),
            _ => new Avx512IntegerKernel<DenseNibbles512>(),
        },
        _ => type is PackedType.Int8 ? new Avx512GroupKernel<GroupBytes512>() : new Avx512GroupKernel<GroupNibbles512>(),
    };
}
