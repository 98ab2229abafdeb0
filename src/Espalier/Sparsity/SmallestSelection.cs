namespace Espalier.Sparsity;

/// <summary>
/// Marks the k smallest of many scores, exactly and without sorting them: among equal scores the lower index goes first.
/// </summary>
/// <remarks>
/// A radix selection over the bits of the numbers, 11 at a time: three passes find the k-th smallest score, one more
/// writes the mask. Linear in the number of scores whatever their distribution, and the same on every run.
/// </remarks>
internal static unsafe class SmallestSelection
{
    private const int DigitBits = 11;
    private const int Buckets = 1 << DigitBits;

    /// <summary>Writes 1 for every score but the <paramref name="count"/> smallest, which get 0.</summary>
    /// <param name="scores">n finite scores.</param>
    /// <param name="keep">n bytes.</param>
    /// <param name="n">How many scores there are.</param>
    /// <param name="count">How many are pruned, from 0 to n.</param>
    /// <returns>False when a score is not finite; the mask is then not written.</returns>
    public static bool Mark(float* scores, byte* keep, long n, long count)
    {
        if (!Threshold(scores, n, Math.Max(count - 1, 0), out uint threshold, out long below))
        {
            return false;
        }

        // All below the threshold go, and as many of those at it as are still owed, in the order of their index.
        long ties = count == 0 ? 0 : count - below;
        bool none = count == 0;
        for (long i = 0; i < n; i++)
        {
            uint key = Key(scores[i]);
            if (key == threshold && ties > 0)
            {
                ties--;
                keep[i] = 0;
            }
            else
            {
                keep[i] = none || key >= threshold ? (byte)1 : (byte)0;
            }
        }

        return true;
    }

    /// <summary>The score of a rank in ascending order.</summary>
    /// <returns>NaN when a score is not finite.</returns>
    public static float AtRank(float* scores, long n, long rank) =>
        Threshold(scores, n, rank, out uint threshold, out _) ? Value(threshold) : float.NaN;

    /// <summary>Finds the key of the score at <paramref name="rank"/> and how many scores are below it.</summary>
    private static bool Threshold(float* scores, long n, long rank, out uint threshold, out long below)
    {
        (threshold, below) = (0, 0);
        if (n == 0)
        {
            return true;
        }

        long* histogram = stackalloc long[Buckets];
        uint known = 0; // the bits found so far, and which they are
        uint knownMask = 0;
        foreach (int shift in (ReadOnlySpan<int>)[21, 10, 0])
        {
            new Span<long>(histogram, Buckets).Clear();
            uint digits = shift == 0 ? (1u << 10) - 1 : Buckets - 1;
            if (knownMask == 0)
            {
                for (long i = 0; i < n; i++)
                {
                    if (!float.IsFinite(scores[i]))
                    {
                        return false;
                    }

                    histogram[Key(scores[i]) >> shift]++;
                }
            }
            else
            {
                for (long i = 0; i < n; i++)
                {
                    uint key = Key(scores[i]);
                    if ((key & knownMask) == known)
                    {
                        histogram[(key >> shift) & digits]++;
                    }
                }
            }

            uint bucket = 0;
            while (below + histogram[bucket] <= rank)
            {
                below += histogram[bucket++];
            }

            known |= bucket << shift;
            knownMask |= digits << shift;
        }

        threshold = known;
        return true;
    }

    /// <summary>Maps a score to an integer of the same order; both zeros map to one.</summary>
    private static uint Key(float score)
    {
        uint bits = BitConverter.SingleToUInt32Bits(score + 0f);
        return (bits & 0x8000_0000) != 0 ? ~bits : bits | 0x8000_0000;
    }

    private static float Value(uint key) =>
        BitConverter.UInt32BitsToSingle((key & 0x8000_0000) != 0 ? key & 0x7FFF_FFFF : ~key);
}
