using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;
using Parameter = TorchSharp.Modules.Parameter;

namespace Espalier.Methods.Adaptation;

/// <summary>What an adapter of <see cref="Snnk"/> computes from the outputs that it follows.</summary>
public enum KernelFeatures
{
    /// <summary>max(G·x, 0)/√m: the workhorse.</summary>
    Relu,

    /// <summary>Universal random features of the sine.</summary>
    Sin,

    /// <summary>Universal random features of the cosine.</summary>
    Cos,

    /// <summary>None: a plain bottleneck adapter, ReLU(W·x), the baseline.</summary>
    Plain,
}

/// <summary>
/// An adapter behind a map: out = y + U·h(y), or without a bottleneck y + v ⊙ h(y), where h is a kernel layer φ(y)·Θᵀ + c with a fixed projection.
/// U and v start at zero, so the map starts as it was.
/// </summary>
/// <remarks>It is not linear in its input and cannot be folded into a weight.</remarks>
public sealed class SnnkAdapter : ILinearAdapter
{
    private readonly KernelFeatures _features;
    private readonly double? _length;
    private readonly string _name;

    /// <summary>Makes an adapter from its parts, which it takes over.</summary>
    /// <param name="features">What φ is.</param>
    /// <param name="projection">G [m, d]; for a plain adapter empty.</param>
    /// <param name="xi">ξ [m] for sin and cos, else empty.</param>
    /// <param name="theta">Θ [b or d, m], of sin and cos [b or d, 2m]; of a plain adapter W [b or d, d].</param>
    /// <param name="up">U [d, b], or v [d].</param>
    /// <param name="length">Scales each input to this length; null leaves it.</param>
    /// <param name="name">The map's name, for messages.</param>
    public SnnkAdapter(KernelFeatures features, Tensor projection, Tensor xi, Tensor theta, Tensor up, double? length, string name)
    {
        using var frozen = no_grad();
        (_features, _length, _name) = (features, length, name);
        (Projection, Xi) = (projection.DetachFromDisposeScope(), xi.DetachFromDisposeScope());
        Theta = Models.Parameters.Of(theta.detach().clone());
        Shift = Models.Parameters.Of(zeros([theta.shape[0]], theta.dtype, theta.device));
        Up = Models.Parameters.Of(up.detach().clone());
    }

    /// <summary>G [m, d], fixed.</summary>
    public Tensor Projection { get; }

    /// <summary>ξ [m], fixed.</summary>
    public Tensor Xi { get; }

    /// <summary>Θ.</summary>
    public Parameter Theta { get; }

    /// <summary>c.</summary>
    public Parameter Shift { get; }

    /// <summary>U or v.</summary>
    public Parameter Up { get; }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Parameter Value)> Parameters => [("theta", Theta), ("shift", Shift), ("up", Up)];

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> Stored => [.. Parameters.Select(p => (p.Name, (Tensor)p.Value)), ("projection", Projection), ("xi", Xi)];

    /// <inheritdoc/>
    /// <remarks>The weight itself stays as it is.</remarks>
    public bool KeepsZeros => true;

    /// <summary>Real features of inputs within the graph of gradients: Re Σ φ·ψ of complex ones is [Re φ, −Im φ]·[Re ψ, Im ψ].</summary>
    /// <param name="features">What φ is.</param>
    /// <param name="x">[rows, d].</param>
    /// <param name="projection">G [m, d].</param>
    /// <param name="xi">ξ [m].</param>
    /// <returns>[rows, m] or [rows, 2m], float32, in the caller's scope.</returns>
    public static Tensor Map(KernelFeatures features, Tensor x, Tensor projection, Tensor xi)
    {
        using var scope = NewDisposeScope();
        if (features is KernelFeatures.Plain)
        {
            return x.alias().MoveToOuterDisposeScope();
        }

        if (features is KernelFeatures.Relu)
        {
            return RandomFeatures.Relu(x, projection).MoveToOuterDisposeScope();
        }

        Tensor phi = RandomFeatures.Universal(x, projection, xi);
        return cat([phi.real, -phi.imag], 1).to(x.dtype).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        Tensor y = nn.functional.linear(x, matrix.detach(), bias), rows = y.reshape(-1, y.shape[^1]);
        Tensor input = _length is { } length ? rows * (length / linalg.norm(rows, 2, [1], keepdim: true).clamp_min(1e-12)) : rows;
        Tensor h = nn.functional.linear(Map(_features, input, Projection, Xi), Theta, Shift);
        h = _features is KernelFeatures.Plain ? nn.functional.relu(h) : h;
        Tensor change = Up.dim() == 1 ? h * Up : nn.functional.linear(h, Up);
        return (rows + change).reshape(y.shape).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    /// <exception cref="EspalierException">Always.</exception>
    public Tensor Weight(Tensor matrix) => throw new EspalierException($"The kernel adapter behind {_name} is not linear, so it cannot be folded into a weight; keep it beside the model.");

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor part in new[] { Projection, Xi, Theta, Shift, Up })
        {
            part.Dispose();
        }
    }
}
