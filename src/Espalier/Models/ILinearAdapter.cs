using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>
/// A trainable change of one linear map, applied from outside: the model knows only that it may be there.
/// </summary>
public interface ILinearAdapter : IDisposable
{
    /// <summary>The trainable tensors with their names relative to the linear map ("lora_A").</summary>
    IReadOnlyList<(string Name, Parameter Value)> Parameters { get; }

    /// <summary>The adapted map in place of x·Wᵀ + b.</summary>
    /// <param name="x">Inputs [..., in].</param>
    /// <param name="matrix">The frozen weight [out, in].</param>
    /// <param name="bias">The bias [out], or null.</param>
    /// <returns>Outputs [..., out].</returns>
    Tensor Forward(Tensor x, Tensor matrix, Tensor? bias);

    /// <summary>The weight [out, in] with the adapter folded in, as a new tensor; <paramref name="matrix"/> stays as it is.</summary>
    /// <exception cref="Runtime.EspalierException">Where folding would break what the adapter promises (zeros of a pruned weight).</exception>
    Tensor Merge(Tensor matrix);
}
