using System.Globalization;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Sparsity.NormalFloats;

/// <summary>
/// Block-wise NormalFloat with scales that are quantised themselves (LQ-LoRA, arXiv 2311.12023): a block of B0 values has one scale in b0 bits,
/// B1 blocks have one scale of these, and the whole tensor one offset.
/// </summary>
/// <remarks>
/// A tensor whose size no multiple of B0·B1 makes has a shorter last block and a last group with fewer blocks; neither changes other blocks.
/// </remarks>
public sealed record NfFormat
{
    internal const float Smallest = 1.0f / (1 << 24); // scales of scales at or below this count as 0

    /// <summary>b, bits of a value. Default 4.</summary>
    public int Bits { get; init => field = Possible(value, value is >= 2 and <= 8, "bits of a value", "2 to 8"); } = 4;

    /// <summary>b0, bits of a block's scale. Default 8.</summary>
    public int ScaleBits { get; init => field = Possible(value, value is >= 1 and <= 8, "bits of a scale", "1 to 8"); } = 8;

    /// <summary>The type of the scale of scales: float32, float16 or bfloat16 (default).</summary>
    public ScalarType SuperType { get; init => field = Possible(value, value is ScalarType.Float32 or ScalarType.Float16 or ScalarType.BFloat16, "type of a scale of scales", "float32, float16 or bfloat16"); } = ScalarType.BFloat16;

    /// <summary>B0, values in a block. Default 64.</summary>
    public int Block { get; init => field = Possible(value, value >= 1, "size of a block", "at least 1"); } = 64;

    /// <summary>B1, blocks that share a scale of their scales. Default 256.</summary>
    public int SuperBlock { get; init => field = Possible(value, value >= 1, "number of blocks that share a scale", "at least 1"); } = 256;

    /// <summary>The bits of a tensor's storage: numel·(b + b0/B0 + bits(b1)/(B0·B1)) where its size is a multiple of B0·B1. The offset is not counted.</summary>
    /// <param name="count">Its elements.</param>
    public double StorageBits(long count)
    {
        (long blocks, long supers) = Counts(count);
        return ((double)count * Bits) + (blocks * ScaleBits) + (supers * SuperBits);
    }

    /// <summary>Blocks and scales of scales of a tensor.</summary>
    /// <param name="count">Its elements.</param>
    public (long Blocks, long Supers) Counts(long count)
    {
        long blocks = (count + Block - 1) / Block;
        return (blocks, (blocks + SuperBlock - 1) / SuperBlock);
    }

    /// <summary>Quantises a tensor in memory order.</summary>
    /// <param name="values">Any shape; taken as float32.</param>
    /// <returns>The codes; its tensors are the caller's.</returns>
    /// <exception cref="EspalierException">When a value is not finite, or a scale is too large for its type.</exception>
    public NfTensor Quantise(Tensor values)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        NormalFloat levels = NormalFloat.Of(Bits);
        long count = values.numel();
        (long blocks, long supers) = Counts(count);
        Tensor padded = nn.functional.pad(values.detach().to(ScalarType.Float32).flatten(), [0, (blocks * Block) - count]).view(blocks, Block);
        Tensor scales = padded.abs().amax([1]); // a
        EspalierException.Require(scales.isfinite().all().item<bool>(), "A tensor with infinite or NaN values cannot be quantised; check the checkpoint.");
        Tensor offset = scales.min(); // one number, over real blocks only
        Tensor d = nn.functional.pad(scales - offset, [0, (supers * SuperBlock) - blocks]).view(supers, SuperBlock);
        Tensor super = d.amax([1]).to(SuperType);
        EspalierException.Require(super.to(ScalarType.Float32).isfinite().all().item<bool>(), "The scales of a tensor are too large for float16; use bfloat16 or float32 for the scales of scales.");
        int top = (1 << ScaleBits) - 1; // n
        Tensor factor = Factor(super, top);
        Tensor q = (d * factor).round().clamp_(0, top).to(ScalarType.Byte).view(-1).narrow(0, 0, blocks);
        Tensor scale = DecodeScales(q, super, offset);

        // A scale of 0 belongs to a block of zeros.
        Tensor z = (padded / scale.masked_fill(scale.eq(0), 1).unsqueeze(1)).view(-1).narrow(0, 0, count);
        Tensor codes = levels.Encode(z).reshape(values.shape);
        return new NfTensor(this, codes.MoveToOuterDisposeScope(), q.clone().MoveToOuterDisposeScope(), super.MoveToOuterDisposeScope(), offset.MoveToOuterDisposeScope(), scales.MoveToOuterDisposeScope());
    }

    /// <summary>scale' = q/(n/S) + offset of every block [blocks], float32, in the caller's scope.</summary>
    internal Tensor DecodeScales(Tensor q, Tensor super, Tensor offset)
    {
        using var scope = NewDisposeScope();
        long blocks = q.numel(), supers = super.numel();
        Tensor factor = Factor(super, (1 << ScaleBits) - 1);
        Tensor d = nn.functional.pad(q.to(ScalarType.Float32), [0, (supers * SuperBlock) - blocks]).view(supers, SuperBlock);
        return (where(factor.eq(0), zeros_like(d), d / factor.masked_fill(factor.eq(0), 1)).view(-1).narrow(0, 0, blocks) + offset).MoveToOuterDisposeScope();
    }

    /// <summary>As in a file's header: "nf3 u8 bf16 16x64".</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"nf{Bits} u{ScaleBits} {SuperWord} {Block}x{SuperBlock}");

    /// <summary>The format of <see cref="ToString"/>.</summary>
    /// <exception cref="EspalierException">For other texts.</exception>
    public static NfFormat Parse(string text)
    {
        string[] words = text.Split(' '), sides = words.Length == 4 ? words[3].Split('x') : [];
        int bits = 0, scaleBits = 0, block = 0, superBlock = 0;
        EspalierException.Require(
            sides.Length == 2 && words[0].StartsWith("nf", StringComparison.Ordinal) && words[1].StartsWith('u')
            && int.TryParse(words[0].AsSpan(2), NumberStyles.None, CultureInfo.InvariantCulture, out bits) && int.TryParse(words[1].AsSpan(1), NumberStyles.None, CultureInfo.InvariantCulture, out scaleBits)
            && int.TryParse(sides[0], NumberStyles.None, CultureInfo.InvariantCulture, out block) && int.TryParse(sides[1], NumberStyles.None, CultureInfo.InvariantCulture, out superBlock),
            $"'{text}' is no NormalFloat format such as 'nf3 u8 bf16 16x64'.");
        return new NfFormat { Bits = bits, ScaleBits = scaleBits, SuperType = TypeOf(words[2]), Block = block, SuperBlock = superBlock };
    }

    /// <summary>A type from its short word: fp32, fp16, bf16.</summary>
    /// <exception cref="EspalierException">For other words.</exception>
    public static ScalarType TypeOf(string word) => word switch
    {
        "fp32" => ScalarType.Float32,
        "fp16" => ScalarType.Float16,
        "bf16" => ScalarType.BFloat16,
        _ => throw new EspalierException($"'{word}' is no type of a scale of scales; use fp32, fp16 or bf16."),
    };

    private string SuperWord => SuperType switch { ScalarType.Float32 => "fp32", ScalarType.Float16 => "fp16", _ => "bf16" };

    private int SuperBits => SuperType is ScalarType.Float32 ? 32 : 16;

    /// <summary>n/S [supers, 1], float32; 0 where S counts as 0.</summary>
    private static Tensor Factor(Tensor super, int top)
    {
        Tensor s = super.to(ScalarType.Float32);
        return where(s.le(Smallest), zeros_like(s), full_like(s, top) / s.masked_fill(s.eq(0), 1)).unsqueeze(1);
    }

    private static T Possible<T>(T value, bool holds, string what, string wanted)
    {
        EspalierException.Require(holds, string.Create(CultureInfo.InvariantCulture, $"The {what} in NormalFloat cannot be {value}; use {wanted}."));
        return value;
    }
}

/// <summary>A tensor in <see cref="NfFormat"/>. Disposes its tensors.</summary>
/// <param name="Format">The format.</param>
/// <param name="Codes">A code per value, uint8, shaped like the tensor.</param>
/// <param name="ScaleCodes">q [blocks], uint8.</param>
/// <param name="Super">S [supers], in its own type.</param>
/// <param name="Offset">One float32.</param>
/// <param name="Scales">The blocks' largest sizes before their quantisation [blocks], float32.</param>
public sealed record NfTensor(NfFormat Format, Tensor Codes, Tensor ScaleCodes, Tensor Super, Tensor Offset, Tensor Scales) : IDisposable
{
    /// <summary>The scales that values are decoded with [blocks], float32, in the caller's scope.</summary>
    public Tensor DecodedScales() => Format.DecodeScales(ScaleCodes, Super, Offset);

    /// <summary>The values, float32, in the caller's scope.</summary>
    public Tensor Dequantise()
    {
        using var scope = NewDisposeScope();
        Tensor scales = DecodedScales().repeat_interleave(Format.Block).narrow(0, 0, Codes.numel());
        return (NormalFloat.Of(Format.Bits).Decode(Codes) * scales.view(Codes.shape)).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor part in new[] { Codes, ScaleCodes, Super, Offset, Scales })
        {
            part.Dispose();
        }
    }
}
