using System.Runtime.InteropServices;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>
/// One ranking over all layers of a model without holding their scores in memory: exactly ⌊n·s⌋ weights go, and among
/// equal scores the lower (layer, row-major index) goes first.
/// </summary>
/// <remarks>
/// Scores that are not negative order like their bit patterns, so two counting passes over 16 bits each (a radix
/// selection) find the score at which the budget ends. The caller runs over the layers three times: <see cref="CountHigh"/>,
/// <see cref="CountLow"/>, then <see cref="Keep"/> in the same order.
/// </remarks>
public sealed class GlobalSelection(double sparsity)
{
    private readonly long[] _high = new long[1 << 16];
    private readonly long[] _low = new long[1 << 16];
    private long _total;
    private long _budget = -1;   // how many weights go
    private uint _bucket;        // the high half of the score at which the budget ends
    private long _inBucket;      // how many of that bucket go
    private uint _threshold;     // the whole score
    private long _ties;          // how many weights of exactly that score still have to go
    private bool _resolved;

    /// <summary>Scores of all layers that <see cref="CountHigh"/> saw.</summary>
    public long Total => _total;

    /// <summary>First pass: counts the high halves.</summary>
    public void CountHigh(Tensor score, string name)
    {
        ReadOnlySpan<uint> all = Bits(score, name, out Tensor owner);
        foreach (uint bits in all)
        {
            _high[bits >> 16]++;
            _total++;
        }

        owner.Dispose();
    }

    /// <summary>Second pass: counts the low halves of the scores around the threshold.</summary>
    public void CountLow(Tensor score, string name)
    {
        if (_budget < 0)
        {
            _budget = (long)Math.Floor(_total * sparsity);
            (_bucket, _inBucket) = Find(_high, _budget);
        }

        ReadOnlySpan<uint> all = Bits(score, name, out Tensor owner);
        foreach (uint bits in all)
        {
            if (bits >> 16 == _bucket)
            {
                _low[bits & 0xFFFF]++;
            }
        }

        owner.Dispose();
    }

    /// <summary>Third pass, in the order of the others: which weights of this layer stay.</summary>
    /// <returns>[out, in], bool, in the caller's scope.</returns>
    public Tensor Keep(Tensor score, string name)
    {
        if (!_resolved)
        {
            (uint low, _ties) = Find(_low, _inBucket);
            _threshold = (_bucket << 16) | low;
            _resolved = true;
        }

        Tensor keep = empty(score.shape, ScalarType.Bool);
        Span<byte> flags = keep.bytes;
        ReadOnlySpan<uint> all = Bits(score, name, out Tensor owner);
        for (int i = 0; i < all.Length; i++)
        {
            bool goes = _budget > 0 && (all[i] < _threshold || (all[i] == _threshold && _ties-- > 0));
            flags[i] = goes ? (byte)0 : (byte)1;
        }

        owner.Dispose();
        return keep;
    }

    // The index at which the running count passes the budget, and how much of the budget is left inside it.
    private static (uint Index, long Left) Find(long[] counts, long budget)
    {
        long left = budget;
        for (uint i = 0; i < counts.Length; i++)
        {
            if (left <= counts[i])
            {
                return (i, left);
            }

            left -= counts[i];
        }

        return ((uint)counts.Length - 1, left);
    }

    private static ReadOnlySpan<uint> Bits(Tensor score, string name, out Tensor owner)
    {
        using (var scope = NewDisposeScope())
        {
            owner = score.detach().to(CPU).to(ScalarType.Float32).contiguous().add(0f).DetachFromDisposeScope(); // add(0): -0 becomes 0, and memory of our own
            EspalierException.Require(owner.numel() == 0 || (owner.isfinite().all().item<bool>() && owner.min().item<float>() >= 0),
                $"The importance scores of {name} hold negative or non-finite numbers, so they cannot be ranked across layers.");
        }

        return MemoryMarshal.Cast<byte, uint>(owner.bytes);
    }
}
