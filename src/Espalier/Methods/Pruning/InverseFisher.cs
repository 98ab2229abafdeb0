using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>
/// Products with the inverse of F = λ·I + (1/m)·Σ g·gᵀ of m gradients, and its diagonal: M-FAC's static algorithm, by updates of rank
/// one. With blocks, consecutive entries are problems of their own, the last may be shorter.
/// </summary>
/// <remarks>Float64 throughout: with the usual λ of 1e-5 float32 loses what the inverse amplifies. Time O(d·m²), memory m·d numbers.</remarks>
public sealed class InverseFisher : IDisposable
{
    private readonly Tensor _vectors, _denominators;
    private readonly double _damping;
    private readonly long _length;

    /// <summary>Works the gradients in.</summary>
    /// <param name="gradients">[m, d].</param>
    /// <param name="damping">λ.</param>
    /// <param name="blockSize">Entries of a block; −1 makes one of all.</param>
    /// <exception cref="EspalierException">For gradients that are not finite, and other options.</exception>
    public InverseFisher(Tensor gradients, double damping, long blockSize = -1)
    {
        EspalierException.Require(gradients.dim() == 2 && gradients.numel() > 0, $"Gradients are needed as [count, length], not [{string.Join(", ", gradients.shape)}].");
        EspalierException.Require(damping > 0 && double.IsFinite(damping), FormattableString.Invariant($"A damping of {damping} is not possible; it must be a positive number, for example 1e-5."));
        EspalierException.Require(blockSize is -1 or > 0, $"Blocks of {blockSize} entries are not possible; give a positive number, or -1 for one block.");
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        EspalierException.Require(gradients.isfinite().all().item<bool>(), "A gradient is infinite or NaN, so that no Fisher matrix can be made of it; check net and images.");
        (long m, _length) = (gradients.shape[0], gradients.shape[1]);
        (_damping, long size) = (damping, blockSize == -1 ? _length : Math.Min(blockSize, _length));
        long blocks = (_length + size - 1) / size;
        Tensor vectors = zeros([blocks, m, size], ScalarType.Float64, gradients.device), denominators = zeros([blocks, m], ScalarType.Float64, gradients.device);
        for (long i = 0; i < m; i++)
        {
            using var step = NewDisposeScope();
            Tensor g = Blocked(gradients[i], blocks, size);
            Tensor v = g / damping;
            if (i > 0)
            {
                Tensor earlier = vectors.narrow(1, 0, i);
                Tensor shares = earlier.bmm(g.unsqueeze(2)) / denominators.narrow(1, 0, i).unsqueeze(2);
                v -= shares.transpose(1, 2).bmm(earlier).squeeze(1);
            }

            vectors.select(1, i).copy_(v);
            denominators.select(1, i).copy_((g * v).sum([1L]) + m);
        }

        (_vectors, _denominators) = (vectors.DetachFromDisposeScope(), denominators.DetachFromDisposeScope());
    }

    /// <summary>δ [blocks, m]: m + g·F⁻¹·g with F⁻¹ of the gradients before. It stays this object's.</summary>
    public Tensor Denominators => _denominators;

    /// <summary>F⁻¹·x.</summary>
    /// <param name="x">[d].</param>
    /// <returns>[d], float64, in the caller's scope.</returns>
    public Tensor Multiply(Tensor x)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        Tensor blocked = Blocked(x, _vectors.shape[0], _vectors.shape[2]);
        Tensor shares = _vectors.bmm(blocked.unsqueeze(2)) / _denominators.unsqueeze(2);
        return Flat((blocked / _damping) - shares.transpose(1, 2).bmm(_vectors).squeeze(1)).MoveToOuterDisposeScope();
    }

    /// <summary>The diagonal of F⁻¹.</summary>
    /// <returns>[d], float64, in the caller's scope.</returns>
    public Tensor Diagonal()
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        Tensor sum = zeros([_vectors.shape[0], _vectors.shape[2]], ScalarType.Float64, _vectors.device);
        for (long i = 0; i < _vectors.shape[1]; i++)
        {
            using var step = NewDisposeScope();
            sum.sub_(_vectors.select(1, i).square() / _denominators.select(1, i).unsqueeze(1));
        }

        return Flat(sum.add_(1 / _damping)).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _vectors.Dispose();
        _denominators.Dispose();
    }

    // Zeros fill the last block up; they take part in nothing.
    private Tensor Blocked(Tensor vector, long blocks, long size)
    {
        EspalierException.Require(vector.dim() == 1 && vector.shape[0] == _length, $"The vector has shape [{string.Join(", ", vector.shape)}], the gradients have length {_length}.");
        return nn.functional.pad(vector.detach().to(ScalarType.Float64), [0, (blocks * size) - _length]).view(blocks, size);
    }

    private Tensor Flat(Tensor blocked) => blocked.flatten().narrow(0, 0, _length);
}
