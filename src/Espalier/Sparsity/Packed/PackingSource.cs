using Espalier.Checkpoints;
using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Sparsity.Packed;

/// <summary>A model's tensors, packed on the way into memory: what <c>espalier pack</c> would write, without writing it.</summary>
/// <param name="source">The dense tensors; they stay the caller's.</param>
/// <param name="config">The model's configuration.</param>
/// <param name="options">How to pack.</param>
public sealed class PackingSource(ITensorSource source, ModelConfig config, PackOptions options) : ICompactSource
{
    private readonly Dictionary<string, Packer.Shape> shapes = Packer.Shapes(Architecture.For(config).Recognize(config, source), options);

    /// <inheritdoc/>
    public IReadOnlyList<string> Names => source.Names;

    /// <inheritdoc/>
    public bool Contains(string name) => source.Contains(name);

    /// <inheritdoc/>
    public TensorInfo Info(string name) => source.Info(name);

    /// <inheritdoc/>
    public ICompactWeight? ReadCompact(string name, WeightLayout layout) => shapes.TryGetValue(name, out Packer.Shape? shape)
        ? new PackedWeight(Packer.Read(source, name, shape.Transposed, shape.Type, shape.Code), byInput: shape.Transposed != (layout is WeightLayout.InOut)) : null;

    /// <summary>Reads one tensor dense; a packed weight as the numbers that it stands for.</summary>
    public Tensor Read(string name, ScalarType? type = null)
    {
        if (!shapes.TryGetValue(name, out Packer.Shape? shape))
        {
            return source.Read(name, type);
        }

        using var scope = NewDisposeScope();
        using PackedMatrix packed = Packer.Read(source, name, shape.Transposed, shape.Type, shape.Code);
        Tensor dense = packed.ToTensor();
        return (shape.Transposed ? dense.t().contiguous() : dense).to(type ?? ScalarType.Float32).MoveToOuterDisposeScope();
    }
}
