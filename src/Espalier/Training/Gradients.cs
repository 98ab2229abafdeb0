using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>What is done to all gradients together.</summary>
internal static class Gradients
{
    /// <summary>Forgets the gradients (they become null, so their memory is free during the forward pass).</summary>
    public static void Clear(IReadOnlyList<(string Name, Parameter Value)> trainable)
    {
        using var scope = NewDisposeScope();
        foreach ((_, Parameter parameter) in trainable)
        {
            parameter.grad = null;
        }
    }

    /// <summary>The L2 norm of all gradients as one vector; null when there is no gradient at all.</summary>
    public static double? Norm(IReadOnlyList<(string Name, Parameter Value)> trainable)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        var norms = new List<Tensor>(trainable.Count);
        foreach ((_, Parameter parameter) in trainable)
        {
            if (parameter.grad is { } gradient)
            {
                norms.Add(linalg.vector_norm(gradient));
            }
        }

        return norms.Count == 0 ? null : linalg.vector_norm(stack(norms)).to(ScalarType.Float64).item<double>();
    }

    /// <summary>Scales gradients of norm <paramref name="norm"/> down to <paramref name="limit"/>, as PyTorch's clip_grad_norm_ does.</summary>
    public static void Clip(IReadOnlyList<(string Name, Parameter Value)> trainable, double norm, double limit)
    {
        double factor = limit / (norm + 1e-6);
        if (factor >= 1)
        {
            return;
        }

        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        foreach ((_, Parameter parameter) in trainable)
        {
            parameter.grad?.mul_(factor);
        }
    }
}
