using System.Globalization;
using Espalier.Checkpoints.Onnx;
using static TorchSharp.torch;

namespace Espalier.Models.Export.Onnx;

/// <summary>A graph as it grows: inputs, weights, constants and operations. Values are known by their names.</summary>
/// <param name="name">The graph's name.</param>
/// <param name="stored">How weights of two and more dimensions are stored; operations always compute in float32.</param>
internal sealed class OnnxBuilder(string name, OnnxType stored)
{
    /// <summary>The version of the standard: what every runtime since 2022 reads.</summary>
    public const int Opset = 17;

    private readonly List<OnnxValue> inputs = [], outputs = [];
    private readonly List<OnnxNode> nodes = [];
    private readonly List<OnnxTensor> tensors = [];
    private readonly Dictionary<string, Func<Tensor>> values = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> known = new(StringComparer.Ordinal);

    /// <summary>The graph so far.</summary>
    public OnnxGraph Graph => new(name, Opset, inputs, outputs, nodes, tensors);

    /// <summary>Computes or reads the values of one of the graph's tensors; the caller's scope disposes them.</summary>
    public Tensor ValueOf(string tensorName) => values[tensorName]();

    /// <summary>Adds an input.</summary>
    public string Input(string inputName, OnnxType type, params OnnxAxis[] axes)
    {
        inputs.Add(new OnnxValue(inputName, type, axes));
        return inputName;
    }

    /// <summary>Makes a value, which a node was asked to call so, an output of the graph.</summary>
    public void Output(string valueName, OnnxType type, params OnnxAxis[] axes) => outputs.Add(new OnnxValue(valueName, type, axes));

    /// <summary>A weight as a float32 value; asked for twice, it is held once.</summary>
    /// <param name="weightName">Its name in the file.</param>
    /// <param name="shape">Its shape.</param>
    /// <param name="read">Reads its values when they are written.</param>
    /// <param name="exact">Whether it stays float32 whatever weights are stored as.</param>
    public string Weight(string weightName, IReadOnlyList<long> shape, Func<Tensor> read, bool exact = false)
    {
        if (known.TryGetValue(weightName, out string? there))
        {
            return there;
        }

        OnnxType type = exact || shape.Count < 2 ? OnnxType.F32 : stored;
        Hold(new OnnxTensor(weightName, type, shape), read);
        return known[weightName] = type == OnnxType.F32 ? weightName : Node("Cast", [weightName], ("to", (long)OnnxType.F32));
    }

    /// <summary>A list of whole numbers.</summary>
    public string List(params long[] numbers) =>
        Constant($"list [{string.Join(',', numbers)}]", OnnxType.I64, [numbers.Length], () => tensor(numbers));

    /// <summary>One whole number.</summary>
    public string Scalar(long number) =>
        Constant($"number {number.ToString(CultureInfo.InvariantCulture)}", OnnxType.I64, [], () => tensor(number));

    /// <summary>One real number.</summary>
    public string Scalar(float number) =>
        Constant($"real {number.ToString("R", CultureInfo.InvariantCulture)}", OnnxType.F32, [], () => tensor(number));

    /// <summary>Adds an operation with one result.</summary>
    /// <param name="operation">The standard's name.</param>
    /// <param name="from">The values that it reads.</param>
    /// <param name="attributes">Its attributes.</param>
    /// <returns>The name of its result.</returns>
    public string Node(string operation, string[] from, params (string Name, object Value)[] attributes) => Node(operation, from, null, attributes);

    /// <summary>The same with a name for the result.</summary>
    public string Node(string operation, string[] from, string? result, params (string Name, object Value)[] attributes)
    {
        string made = result ?? Fresh(operation);
        Add(operation, from, [made], attributes);
        return made;
    }

    /// <summary>Cuts the last axis into pieces.</summary>
    public string[] Split(string value, params long[] sizes)
    {
        string[] pieces = [.. sizes.Select((_, i) => $"{Fresh("Split")}.{i}")];
        Add("Split", [value, List(sizes)], pieces, [("axis", -1L)]);
        return pieces;
    }

    private void Add(string operation, string[] from, string[] made, (string Name, object Value)[] attributes) =>
        nodes.Add(new OnnxNode(operation, from, made, attributes.ToDictionary(a => a.Name, a => a.Value)));

    private string Fresh(string operation) => string.Create(CultureInfo.InvariantCulture, $"{operation}_{nodes.Count}");

    private string Constant(string constantName, OnnxType type, long[] shape, Func<Tensor> value)
    {
        if (known.TryAdd(constantName, constantName))
        {
            Hold(new OnnxTensor(constantName, type, shape), value);
        }

        return constantName;
    }

    private void Hold(OnnxTensor tensor, Func<Tensor> value)
    {
        tensors.Add(tensor);
        values.Add(tensor.Name, value);
    }
}
