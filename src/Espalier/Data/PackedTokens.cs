using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Data;

/// <summary>
/// Training text as one run of tokens, cut into windows that are shuffled anew each epoch. The batch of a step is a pure
/// function of seed and step, so a resumed run needs no state to see the same text.
/// </summary>
public sealed class PackedTokens
{
    private readonly int[] _tokens;
    private readonly int _batch;
    private readonly int _length;
    private readonly Seed _seed;
    private readonly int _perEpoch;
    private readonly Lock _lock = new();
    private (long Epoch, int Offset, int[] Order)? _current;

    /// <summary>Takes the tokens of a text.</summary>
    /// <param name="tokens">All tokens in order.</param>
    /// <param name="batch">Windows per step.</param>
    /// <param name="length">Tokens per window.</param>
    /// <param name="seed">Decides offsets and order.</param>
    /// <exception cref="EspalierException">When the text is too short for one window at any offset.</exception>
    public PackedTokens(int[] tokens, int batch, int length, Seed seed)
    {
        EspalierException.Require(batch >= 1 && length >= 2, $"A batch of {batch} windows of {length} tokens is not possible; at least 1 of at least 2.");
        RequireEnough(tokens.Length, length);
        (_tokens, _batch, _length, _seed) = (tokens, batch, length, seed);
        _perEpoch = (_tokens.Length - length) / length; // windows that fit whatever the epoch's offset
    }

    /// <summary>How many tokens a text needs at least for windows of a length: one window at any offset.</summary>
    public static long Fewest(int length) => 2L * length;

    /// <summary>Refuses a text that is too short.</summary>
    /// <param name="tokens">Its tokens.</param>
    /// <param name="length">Tokens per window.</param>
    /// <exception cref="EspalierException">When it is.</exception>
    public static void RequireEnough(long tokens, int length) => EspalierException.Require(tokens >= Fewest(length),
        $"The training text has {tokens} tokens, too few for windows of {length} (twice that is needed); give more text or a shorter length.");

    /// <summary>All tokens.</summary>
    public int TokenCount => _tokens.Length;

    /// <summary>Windows in one epoch.</summary>
    public int WindowsPerEpoch => _perEpoch;

    /// <summary>The windows of one step.</summary>
    /// <param name="step">The step, from 0.</param>
    /// <returns>[batch, length], int64, in the caller's scope.</returns>
    public Tensor Batch(long step)
    {
        var ids = new long[(long)_batch * _length];
        for (int b = 0; b < _batch; b++)
        {
            long index = (step * _batch) + b;
            (_, int offset, int[] order) = Epoch(index / _perEpoch);
            int from = offset + (order[(int)(index % _perEpoch)] * _length);
            for (int t = 0; t < _length; t++)
            {
                ids[((long)b * _length) + t] = _tokens[from + t];
            }
        }

        return tensor(ids).reshape(_batch, _length);
    }

    private (long Epoch, int Offset, int[] Order) Epoch(long epoch)
    {
        lock (_lock)
        {
            if (_current is not { } current || current.Epoch != epoch)
            {
                Random random = _seed.Random($"epoch {epoch}");
                int offset = random.Next(_length);
                int[] order = [.. Enumerable.Range(0, _perEpoch)];
                random.Shuffle(order);
                _current = current = (epoch, offset, order);
            }

            return current;
        }
    }
}
