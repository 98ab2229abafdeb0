using static TorchSharp.torch;

namespace Espalier.Checkpoints;

/// <summary>Named tensors that are read one at a time: a safetensors file, a sharded folder, a model in memory.</summary>
public interface ITensorSource
{
    /// <summary>The names, in the order in which they lie in the files.</summary>
    IReadOnlyList<string> Names { get; }

    /// <summary>Whether there is a tensor of this name.</summary>
    bool Contains(string name);

    /// <summary>Element type and shape of a tensor, without reading it.</summary>
    /// <exception cref="Runtime.EspalierException">When there is no tensor of this name.</exception>
    TensorInfo Info(string name);

    /// <summary>Reads one tensor into memory of its own.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="type">The element type wanted; null keeps the stored one.</param>
    /// <returns>A tensor on the CPU that the caller (or its scope) disposes.</returns>
    /// <exception cref="Runtime.EspalierException">When there is none of this name or the file ends early.</exception>
    Tensor Read(string name, ScalarType? type = null);
}

/// <summary>What is known of a stored tensor before it is read.</summary>
/// <param name="Name">Its name.</param>
/// <param name="ElementType">The element type's name as the format spells it ("F32", "BF16", "F8_E4M3").</param>
/// <param name="Shape">Its dimensions; empty for a scalar.</param>
/// <param name="ByteCount">The bytes it takes in the file.</param>
public sealed record TensorInfo(string Name, string ElementType, IReadOnlyList<long> Shape, long ByteCount)
{
    /// <summary>The number of elements.</summary>
    public long ElementCount => Shape.Aggregate(1L, (a, b) => checked(a * b));
}
