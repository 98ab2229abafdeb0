using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Checkpoints.Onnx;

/// <summary>The element types of ONNX that are written and read here, with the format's numbers.</summary>
public enum OnnxType
{
    /// <summary>float32.</summary>
    F32 = 1,

    /// <summary>int64.</summary>
    I64 = 7,

    /// <summary>Truth values, a byte each.</summary>
    Bool = 9,

    /// <summary>float16.</summary>
    F16 = 10,
}

/// <summary>What torch calls the element types.</summary>
internal static class OnnxTypes
{
    public static ScalarType ScalarTypeOf(OnnxType type) => type switch
    {
        OnnxType.I64 => ScalarType.Int64,
        OnnxType.Bool => ScalarType.Bool,
        OnnxType.F16 => ScalarType.Float16,
        _ => ScalarType.Float32,
    };
}

/// <summary>One axis of a value: a size, or the name of one that is known when the graph runs.</summary>
/// <param name="Size">The size; 0 where it has a name.</param>
/// <param name="Name">Its name ("tokens"), or null.</param>
public readonly record struct OnnxAxis(long Size, string? Name)
{
    /// <summary>A fixed size.</summary>
    public static implicit operator OnnxAxis(long size) => new(size, null);

    /// <summary>A named size.</summary>
    public static implicit operator OnnxAxis(string name) => new(0, name);

    /// <inheritdoc/>
    public override string ToString() => Name ?? Size.ToString(System.Globalization.CultureInfo.InvariantCulture);
}

/// <summary>An input or output of a graph.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Type">Its element type.</param>
/// <param name="Axes">Its axes.</param>
public sealed record OnnxValue(string Name, OnnxType Type, IReadOnlyList<OnnxAxis> Axes);

/// <summary>A tensor that the file holds.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Type">How it is stored.</param>
/// <param name="Shape">Its dimensions; none for a scalar.</param>
public sealed record OnnxTensor(string Name, OnnxType Type, IReadOnlyList<long> Shape)
{
    /// <summary>The bytes of its values.</summary>
    public long ByteCount => Shape.Aggregate(Type switch { OnnxType.I64 => 8L, OnnxType.F32 => 4L, OnnxType.F16 => 2L, _ => 1L }, (a, b) => checked(a * b));
}

/// <summary>One operation of a graph.</summary>
/// <param name="Operator">Its name in the standard ("MatMul").</param>
/// <param name="Inputs">The values that it reads; an empty name leaves an optional one out.</param>
/// <param name="Outputs">The values that it makes.</param>
/// <param name="Attributes">Each a <see cref="long"/>, <see cref="float"/>, <see cref="string"/> or an array of <see cref="long"/>.</param>
public sealed record OnnxNode(string Operator, IReadOnlyList<string> Inputs, IReadOnlyList<string> Outputs, IReadOnlyDictionary<string, object> Attributes)
{
    /// <summary>A whole number.</summary>
    internal long Number(string name, long standIn) => Attributes.TryGetValue(name, out object? value) ? (long)value : standIn;

    /// <summary>A list of whole numbers.</summary>
    /// <exception cref="EspalierException">When there is none.</exception>
    internal long[] Numbers(string name) => Attributes.GetValueOrDefault(name) as long[]
        ?? throw new EspalierException($"An ONNX node {Operator} has no list '{name}'; the file is damaged or of another version.");
}

/// <summary>A graph without the values of its tensors.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Opset">The version of the standard's operators.</param>
/// <param name="Inputs">What is given when it runs.</param>
/// <param name="Outputs">What it answers.</param>
/// <param name="Nodes">Its operations, each after those that it reads from.</param>
/// <param name="Tensors">Its weights and constants.</param>
public sealed record OnnxGraph(string Name, int Opset, IReadOnlyList<OnnxValue> Inputs, IReadOnlyList<OnnxValue> Outputs, IReadOnlyList<OnnxNode> Nodes, IReadOnlyList<OnnxTensor> Tensors);
