using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>
/// Rotary positions: turns pairs (x_i, x_{i+d/2}) of each head by position × frequency_i. Only the first
/// <c>dimensions</c> of a head are turned (GPT-NeoX turns a quarter).
/// </summary>
public sealed class Rotary : IDisposable
{
    private readonly double[] frequencies;
    private readonly int dimensions;
    private readonly float[] turn; // cosines, then sines, of the position that was turned to last
    private long turnedTo = -1;
    private Tensor? cosines;
    private Tensor? sines;

    /// <summary>Makes the turns; its table grows with the positions it sees.</summary>
    /// <param name="settings">Base and scaling.</param>
    /// <param name="dimensions">How many dimensions of a head are turned; even.</param>
    public Rotary(RopeSettings settings, int dimensions)
    {
        this.dimensions = dimensions;
        frequencies = settings.Frequencies(dimensions);
        turn = new float[dimensions];
    }

    /// <summary>Turns every head by its token's position.</summary>
    /// <param name="x_BNTD">Queries or keys [batch, heads, tokens, head width].</param>
    /// <param name="position">The position of the first token.</param>
    /// <returns>The same shape.</returns>
    public Tensor Turn(Tensor x_BNTD, long position)
    {
        using var scope = NewDisposeScope();
        long tokens = x_BNTD.shape[2];
        int half = dimensions / 2;
        EnsureTable(position + tokens, x_BNTD.device, x_BNTD.dtype);
        Tensor cos = cosines!.narrow(0, position, tokens); // [T, d/2]
        Tensor sin = sines!.narrow(0, position, tokens);
        Tensor first = x_BNTD.narrow(-1, 0, half);
        Tensor second = x_BNTD.narrow(-1, half, half);
        Tensor turnedFirst = (first * cos) - (second * sin);
        Tensor turnedSecond = (second * cos) + (first * sin);
        long rest = x_BNTD.shape[3] - dimensions;
        Tensor[] pieces = rest == 0 ? [turnedFirst, turnedSecond] : [turnedFirst, turnedSecond, x_BNTD.narrow(-1, dimensions, rest)];
        return cat(pieces, -1).MoveToOuterDisposeScope();
    }

    /// <summary>Turns one token's heads in place.</summary>
    /// <param name="x">Queries or keys [heads, head width].</param>
    /// <param name="headWidth">The width of a head.</param>
    /// <param name="position">The token's position.</param>
    internal void Turn(Span<float> x, int headWidth, long position)
    {
        int half = dimensions / 2;
        if (turnedTo != position)
        {
            for (int i = 0; i < half; i++)
            {
                (double sin, double cos) = Math.SinCos(position * frequencies[i]);
                (turn[i], turn[half + i]) = ((float)cos, (float)sin);
            }

            turnedTo = position;
        }

        for (int head = 0; head < x.Length; head += headWidth)
        {
            Span<float> first = x.Slice(head, half), second = x.Slice(head + half, half);
            for (int i = 0; i < half; i++)
            {
                (float cos, float sin) = (turn[i], turn[half + i]);
                (first[i], second[i]) = ((first[i] * cos) - (second[i] * sin), (second[i] * cos) + (first[i] * sin));
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        cosines?.Dispose();
        sines?.Dispose();
        (cosines, sines) = (null, null);
    }

    private void EnsureTable(long positions, Device device, ScalarType type)
    {
        if (cosines is not null && cosines.shape[0] >= positions && cosines.device == device && cosines.dtype == type)
        {
            return;
        }

        // Room to grow, so that generating token by token does not rebuild the table at every step.
        long room = Math.Max(64, (long)System.Numerics.BitOperations.RoundUpToPowerOf2((ulong)positions));
        Dispose();
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor angles = outer(arange(room, ScalarType.Float64), tensor(frequencies)); // [positions, d/2]
        cosines = angles.cos().to(type).to(device).DetachFromDisposeScope();
        sines = angles.sin().to(type).to(device).DetachFromDisposeScope();
    }
}
