using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>
/// A trainable change of one weight, applied from outside: the model knows only that it may be there. A linear map asks for its
/// outputs (<see cref="Forward"/>), a convolution for its weight as the matrix [out, in·k·k] (<see cref="Weight"/>).
/// </summary>
public interface ILinearAdapter : IDisposable
{
    /// <summary>The trainable tensors with their names relative to the map ("lora_A").</summary>
    IReadOnlyList<(string Name, Parameter Value)> Parameters { get; }

    /// <summary>What a file must hold to make this adapter again, by the same kind of names. Default: what is trained.</summary>
    IReadOnlyList<(string Name, Tensor Value)> Stored => [.. Parameters.Select(p => (p.Name, (Tensor)p.Value))];

    /// <summary>Whether pruned weights (the zeros of a mask) are zero in <see cref="Weight"/> whatever is trained; an adapter that cannot promise it is masked from outside. Default false.</summary>
    bool KeepsZeros => false;

    /// <summary>The weight that is used, with a graph to the trained tensors.</summary>
    /// <param name="matrix">The frozen weight [out, in] or [out, in·k·k]; its element type may be narrower than the adapter's.</param>
    /// <returns>A new tensor of that shape.</returns>
    Tensor Weight(Tensor matrix);

    /// <summary>The adapted map in place of x·Wᵀ + b. Default: a product with <see cref="Weight"/>; factorised adapters save time and memory here.</summary>
    /// <param name="x">Inputs [..., in].</param>
    /// <param name="matrix">The frozen weight [out, in].</param>
    /// <param name="bias">The bias [out], or null.</param>
    /// <returns>Outputs [..., out].</returns>
    Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        return nn.functional.linear(x, Weight(matrix), bias).MoveToOuterDisposeScope();
    }

    /// <summary>The weight with the adapter folded in, computed in float32 (or wider) and rounded to the weight's type once; <paramref name="matrix"/> stays as it is.</summary>
    /// <param name="matrix">[out, in] or [out, in·k·k].</param>
    /// <exception cref="Runtime.EspalierException">Where folding would break what the adapter promises (zeros of a pruned weight).</exception>
    Tensor Merge(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor wide = matrix.dtype is ScalarType.Float64 ? matrix : matrix.to(ScalarType.Float32);
        return Weight(wide).to(matrix.dtype).MoveToOuterDisposeScope();
    }
}
