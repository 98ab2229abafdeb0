using static TorchSharp.torch;

namespace Espalier.Models.Export;

/// <summary>How a tensor's values are arranged anew on their way into a GGUF file.</summary>
internal enum Rearrangement
{
    /// <summary>Not at all.</summary>
    None,

    /// <summary>
    /// Rows of each head from halves to neighbours: row i and row i + D/2 turn together here, rows 2i and 2i + 1 there
    /// (llama.cpp's "normal" rotary type, which it uses for the Llama family only).
    /// </summary>
    HalvesToPairs,

    /// <summary>[in, out] to [out, in].</summary>
    Transposed,

    /// <summary>Rows that hold query, key and value head by head to all queries, all keys, all values.</summary>
    HeadsToParts,
}

/// <summary>One tensor of a checkpoint and what becomes of it.</summary>
/// <param name="Target">Its name in the file.</param>
/// <param name="Source">Its name in the checkpoint.</param>
/// <param name="SourceShape">Its shape there.</param>
/// <param name="Way">How its values are arranged anew.</param>
/// <param name="Heads">The heads in its rows, where the arrangement goes by heads.</param>
internal sealed record TensorRule(string Target, string Source, long[] SourceShape, Rearrangement Way = Rearrangement.None, int Heads = 1)
{
    /// <summary>Its shape in the file, rows first.</summary>
    public long[] TargetShape => Way == Rearrangement.Transposed ? [.. SourceShape.Reverse()] : SourceShape;

    /// <summary>From the checkpoint's arrangement to the file's.</summary>
    public Tensor ToTarget(Tensor value) => Way switch
    {
        Rearrangement.HalvesToPairs => Swap(value, [Heads, 2, -1, value.shape[1..].Aggregate(1L, (a, b) => a * b)], 1, 2),
        Rearrangement.HeadsToParts => Swap(value, [Heads, 3, -1], 0, 1),
        Rearrangement.Transposed => value.t(),
        _ => value,
    };

    /// <summary>And back.</summary>
    public Tensor ToSource(Tensor value) => Way switch
    {
        Rearrangement.HalvesToPairs => Swap(value, [Heads, -1, 2, value.shape[1..].Aggregate(1L, (a, b) => a * b)], 1, 2),
        Rearrangement.HeadsToParts => Swap(value, [3, Heads, -1], 0, 1),
        Rearrangement.Transposed => value.t(),
        _ => value,
    };

    private static Tensor Swap(Tensor value, long[] view, int a, int b) => value.contiguous().view(view).transpose(a, b).reshape(value.shape);
}
