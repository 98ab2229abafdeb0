using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Sparsity.NormalFloats;

/// <summary>A compact weight plus L1·L2, used without ever being added up: y = x·Qᵀ + (x·L2ᵀ)·L1ᵀ.</summary>
public sealed class LowRankWeight : ICompactWeight
{
    private readonly Tensor _left, _right;

    /// <summary>Takes over a weight; the factors are copied to float32.</summary>
    /// <param name="inner">Q [out, in]; disposed with this.</param>
    /// <param name="left">L1 [out, r].</param>
    /// <param name="right">L2 [r, in].</param>
    /// <exception cref="EspalierException">When shapes do not fit.</exception>
    public LowRankWeight(ICompactWeight inner, Tensor left, Tensor right)
    {
        EspalierException.Require(left.dim() == 2 && right.dim() == 2 && left.shape[1] == right.shape[0], $"Low-rank factors [{string.Join(", ", left.shape)}] and [{string.Join(", ", right.shape)}] do not fit each other.");
        Inner = inner;
        StoredBytes = inner.StoredBytes + (left.numel() * left.element_size()) + (right.numel() * right.element_size());
        using var frozen = no_grad();
        (_left, _right) = (left.detach().to(ScalarType.Float32, copy: true).contiguous().DetachFromDisposeScope(), right.detach().to(ScalarType.Float32, copy: true).contiguous().DetachFromDisposeScope());
    }

    /// <summary>Q.</summary>
    public ICompactWeight Inner { get; }

    /// <summary>The bytes of Q and of the factors as they are stored.</summary>
    public long StoredBytes { get; }

    /// <inheritdoc/>
    public Tensor Multiply(Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor low = nn.functional.linear(nn.functional.linear(x.to(ScalarType.Float32), _right), _left);
        return Inner.Multiply(x).add_(low).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Multiply(ReadOnlySpan<float> x, Span<float> y)
    {
        Inner.Multiply(x, y);
        float[] low = Low(x);
        for (int i = 0; i < low.Length; i++)
        {
            y[i] += low[i];
        }
    }

    /// <inheritdoc/>
    public void Multiply(ReadOnlySpan<float> x, Span<float> y, ReadOnlySpan<int> rows)
    {
        Inner.Multiply(x, y, rows);
        float[] low = Low(x);
        foreach (int row in rows)
        {
            y[row] += low[row];
        }
    }

    /// <inheritdoc/>
    public Tensor Rows(Tensor ids)
    {
        using var scope = NewDisposeScope();
        return Inner.Rows(ids).add_(_left.index_select(0, ids).mm(_right)).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor ToDense()
    {
        using var scope = NewDisposeScope();
        return Inner.ToDense().add_(_left.mm(_right)).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Inner.Dispose();
        _left.Dispose();
        _right.Dispose();
    }

    private float[] Low(ReadOnlySpan<float> x)
    {
        using var scope = NewDisposeScope();
        return [.. _left.mv(_right.mv(tensor(x.ToArray()))).data<float>()];
    }
}
