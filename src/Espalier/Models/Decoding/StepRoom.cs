namespace Espalier.Models.Decoding;

/// <summary>The vectors of one decoding step. Their memory is kept from step to step.</summary>
internal sealed class StepRoom
{
    private readonly float[][] vectors = [.. Enum.GetValues<StepVector>().Select(_ => Array.Empty<float>())];

    private int[] numbers = [];

    /// <summary>The places of all entries that are not 0, ascending.</summary>
    /// <param name="x">Activations.</param>
    /// <param name="places">The places.</param>
    /// <returns>Whether they are at most half of all, so that leaving the others out is worth it.</returns>
    public bool FewActive(ReadOnlySpan<float> x, out ReadOnlySpan<int> places)
    {
        if (numbers.Length < x.Length)
        {
            numbers = new int[x.Length];
        }

        int count = 0;
        for (int i = 0; i < x.Length; i++)
        {
            numbers[count] = i;
            count += x[i] != 0 ? 1 : 0;
        }

        places = numbers.AsSpan(0, count);
        return count <= x.Length / 2;
    }

    /// <summary>The residual stream [hidden]; a block changes it in place.</summary>
    public Span<float> Hidden => vectors[(int)StepVector.Hidden];

    /// <summary>Room for a vector; what it held before is lost.</summary>
    /// <param name="which">Its name.</param>
    /// <param name="length">Its length.</param>
    public Span<float> Take(StepVector which, int length)
    {
        ref float[] vector = ref vectors[(int)which];
        if (vector.Length < length || (which is StepVector.Hidden && vector.Length != length))
        {
            vector = new float[length];
        }

        return vector.AsSpan(0, length);
    }
}

/// <summary>The vectors that a step needs.</summary>
internal enum StepVector
{
    /// <summary>The residual stream.</summary>
    Hidden,

    /// <summary>A normed copy of it.</summary>
    Normed,

    /// <summary>What a branch adds to it.</summary>
    Branch,

    /// <summary>Queries, or queries, keys and values in one.</summary>
    Query,

    /// <summary>Keys.</summary>
    Key,

    /// <summary>Values.</summary>
    Value,

    /// <summary>What attention gives.</summary>
    Attended,

    /// <summary>Neurons.</summary>
    Neurons,

    /// <summary>The other half of gated neurons.</summary>
    Up,
}
