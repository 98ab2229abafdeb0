using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Data;

/// <summary>
/// Batches of windows for training. The batch of a step is a function of seed and step alone, so that a run resumes
/// anywhere without saved state. Each epoch cuts the stream at another offset and shuffles the windows.
/// </summary>
/// <remarks>Safe to use from several threads.</remarks>
public sealed class PackedTokens
{
    private readonly int[] tokens;
    private readonly Seed seed;
    private readonly Lock gate = new();

    // The epochs of the last batch: two, where a batch spans the end of one. Made again when others are asked for.
    private readonly Dictionary<long, Epoch> epochs = [];

    /// <summary>Makes a source of batches.</summary>
    /// <param name="tokens">The whole stream; see <see cref="TokenWindows.FromDocuments"/>. Not copied.</param>
    /// <param name="batch">Windows in a batch.</param>
    /// <param name="length">Tokens in a window.</param>
    /// <param name="seed">Fixes offsets and orders.</param>
    /// <exception cref="EspalierException">When a size is not positive or the stream is shorter than one window.</exception>
    public PackedTokens(int[] tokens, int batch, int length, Seed seed)
    {
        EspalierException.Require(batch > 0, $"The batch must be positive, not {batch}.");
        TokenWindows.RequireLength(length);
        TokenWindows.RequireOneWindow(tokens.Length, length);
        this.tokens = tokens;
        this.seed = seed;
        BatchSize = batch;
        Length = length;
        // One window less than would fit, where there is more than one, leaves room to move the cuts by up to a window.
        WindowsPerEpoch = Math.Max(1, (tokens.Length - length + 1) / length);
    }

    /// <summary>Windows in a batch.</summary>
    public int BatchSize { get; }

    /// <summary>Tokens in a window.</summary>
    public int Length { get; }

    /// <summary>How many windows are seen before the stream is cut anew.</summary>
    public int WindowsPerEpoch { get; }

    /// <summary>Tokens in the stream.</summary>
    public int TokenCount => tokens.Length;

    /// <summary>The batch of a step.</summary>
    /// <param name="step">The step, from 0.</param>
    /// <returns>[batch, length] int64; the caller disposes it.</returns>
    public Tensor Batch(long step)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(step);
        int[] ids = new int[BatchSize * Length];
        lock (gate)
        {
            long first = step * BatchSize / WindowsPerEpoch;
            foreach (long past in epochs.Keys.Where(e => e < first || e > first + 1).ToArray())
            {
                epochs.Remove(past);
            }

            for (int row = 0; row < BatchSize; row++)
            {
                (long epoch, long window) = Math.DivRem((step * BatchSize) + row, WindowsPerEpoch);
                tokens.AsSpan(EpochOf(epoch).Start((int)window, Length), Length).CopyTo(ids.AsSpan(row * Length));
            }
        }

        return TokenWindows.ToTensor(ids, BatchSize, Length);
    }

    private Epoch EpochOf(long index)
    {
        if (!epochs.TryGetValue(index, out Epoch? epoch))
        {
            int room = Math.Min(Length - 1, tokens.Length - (WindowsPerEpoch * Length));
            int offset = seed.Random($"packed tokens, offset of epoch {index}").Next(room + 1);
            epochs[index] = epoch = new Epoch(offset, Shuffle.Indices(WindowsPerEpoch, seed, $"packed tokens, order of epoch {index}"));
        }

        return epoch;
    }

    private sealed record Epoch(int Offset, int[] Order)
    {
        public int Start(int window, int length) => Offset + (Order[window] * length);
    }
}
