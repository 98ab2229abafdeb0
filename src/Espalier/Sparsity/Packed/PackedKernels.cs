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

    /// <summary>AVX-512 F, BW and VBMI2 (Ice Lake, Zen 4 and later).</summary>
    Avx512,
}

/// <summary>Chooses the kernels once, at the first product: the best set of this processor, or the one that <c>ESPALIER_KERNELS</c> names.</summary>
public static class PackedKernels
{
    /// <summary>The environment variable: scalar, avx2 or avx512.</summary>
    public const string Variable = "ESPALIER_KERNELS";

    private static readonly RowKernel[][] Kernels =
        [.. Enum.GetValues<KernelSet>().Select(set => IsSupported(set) ? Enum.GetValues<PackedType>().Select(type => Make(set, type)).ToArray() : [])];

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

    internal static RowKernel For(KernelSet set, PackedType type) => Kernels[(int)set][(int)type];

    private static bool IsSupported(KernelSet set) => set switch
    {
        KernelSet.Scalar => true,
        KernelSet.Avx2 => Avx2.IsSupported && Fma.IsSupported && Popcnt.IsSupported,
        _ => Avx512F.IsSupported && Avx512BW.IsSupported && Avx512Vbmi2.IsSupported,
    };

    private static RowKernel Make(KernelSet set, PackedType type) => (set, type) switch
    {
        (KernelSet.Scalar, _) => new ScalarKernel(type),
        (KernelSet.Avx2, PackedType.Float32) => new Avx2FloatKernel(),
        (KernelSet.Avx2, PackedType.BFloat16) => new Avx2HalfKernel<BFloat16Halves>(),
        (KernelSet.Avx2, PackedType.Float16) => new Avx2HalfKernel<Float16Halves>(),
        (KernelSet.Avx2, _) => new Avx2IntegerKernel(type is PackedType.Int4),
        (_, PackedType.Float32) => new Avx512FloatKernel(),
        (_, PackedType.BFloat16) => new Avx512HalfKernel<BFloat16Halves>(),
        (_, PackedType.Float16) => new Avx512HalfKernel<Float16Halves>(),
        _ => new Avx512IntegerKernel(type is PackedType.Int4),
    };
}
