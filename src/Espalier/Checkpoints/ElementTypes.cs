using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Checkpoints;

/// <summary>The element types of the safetensors format: their names, their sizes and the torch types that hold them.</summary>
/// <remarks>
/// Eight-bit floats have no torch type here and are read as the bytes they are (uint8). Unsigned 16, 32 and 64-bit integers are
/// accepted in a file, and their bytes can be had, but no tensor type of TorchSharp holds them.
/// </remarks>
public static class ElementTypes
{
    private static readonly Dictionary<string, (int Size, ScalarType? Type)> Known = new(StringComparer.Ordinal)
    {
        ["F64"] = (8, ScalarType.Float64),
        ["F32"] = (4, ScalarType.Float32),
        ["F16"] = (2, ScalarType.Float16),
        ["BF16"] = (2, ScalarType.BFloat16),
        ["I64"] = (8, ScalarType.Int64),
        ["I32"] = (4, ScalarType.Int32),
        ["I16"] = (2, ScalarType.Int16),
        ["I8"] = (1, ScalarType.Int8),
        ["U8"] = (1, ScalarType.Byte),
        ["BOOL"] = (1, ScalarType.Bool),
        ["F8_E4M3"] = (1, ScalarType.Byte),
        ["F8_E5M2"] = (1, ScalarType.Byte),
        ["F8_E8M0"] = (1, ScalarType.Byte),
        ["C64"] = (8, ScalarType.ComplexFloat32),
        ["U16"] = (2, null),
        ["U32"] = (4, null),
        ["U64"] = (8, null),
    };

    // The first name of a torch type wins: U8, not F8_E4M3, is what uint8 is written as.
    private static readonly Dictionary<ScalarType, string> Names = Known
        .Where(entry => entry.Value.Type is not null)
        .GroupBy(entry => entry.Value.Type!.Value)
        .ToDictionary(group => group.Key, group => group.First().Key);

    /// <summary>Whether the format has an element type of this name.</summary>
    public static bool IsKnown(string elementType) => Known.ContainsKey(elementType);

    /// <summary>The bytes of one element.</summary>
    /// <exception cref="EspalierException">When the format has no such type.</exception>
    public static int SizeOf(string elementType) => Find(elementType).Size;

    /// <summary>The torch type that holds an element type.</summary>
    /// <exception cref="EspalierException">When the format has no such type, or torch has none to hold it.</exception>
    public static ScalarType ScalarTypeOf(string elementType) => Find(elementType).Type
        ?? throw new EspalierException($"Tensors of element type {elementType} cannot be held by TorchSharp; convert them to a signed type before use.");

    /// <summary>The format's name of a torch type ("F32" for float32).</summary>
    /// <exception cref="EspalierException">When the format cannot store the type.</exception>
    public static string NameOf(ScalarType type) => Names.TryGetValue(type, out string? name)
        ? name
        : throw new EspalierException($"The safetensors format cannot store tensors of type {type}; convert them first.");

    /// <summary>Plans a tensor that is to be written.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="type">The element type it is stored in.</param>
    /// <param name="shape">Its dimensions; none for a scalar.</param>
    public static TensorInfo Plan(string name, ScalarType type, params IReadOnlyList<long> shape) => Plan(name, NameOf(type), shape);

    /// <summary>Plans a tensor that is to be written, by the format's name of its element type.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="elementType">The format's name of the type ("BF16").</param>
    /// <param name="shape">Its dimensions; none for a scalar.</param>
    /// <exception cref="EspalierException">When the type is unknown or the shape impossible.</exception>
    public static TensorInfo Plan(string name, string elementType, params IReadOnlyList<long> shape)
    {
        EspalierException.Require(
            TryByteCount(elementType, shape, out long bytes),
            $"Tensor '{name}' of type {elementType} and shape [{string.Join(", ", shape)}] cannot be stored: its size is negative or beyond 2^63 bytes.");
        return new TensorInfo(name, elementType, shape, bytes);
    }

    /// <summary>The bytes of a tensor; false when a dimension is negative or the product leaves 64 bits.</summary>
    internal static bool TryByteCount(string elementType, IReadOnlyList<long> shape, out long bytes)
    {
        bytes = 0;
        UInt128 product = (uint)SizeOf(elementType);
        bool empty = false;
        foreach (long size in shape)
        {
            if (size < 0)
            {
                return false;
            }

            // A zero must not hide an impossible neighbour: [0, 2^62, 4] breaks the strides of whoever allocates it.
            empty |= size == 0;
            product *= (UInt128)Math.Max(size, 1);
            if (product > long.MaxValue)
            {
                return false;
            }
        }

        bytes = empty ? 0 : (long)product;
        return true;
    }

    private static (int Size, ScalarType? Type) Find(string elementType) => Known.TryGetValue(elementType, out (int, ScalarType?) known)
        ? known
        : throw new EspalierException($"There is no element type '{elementType}' in the safetensors format; known are {string.Join(", ", Known.Keys)}.");
}
