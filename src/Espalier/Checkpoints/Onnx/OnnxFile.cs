using System.Globalization;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Checkpoints.Onnx;

/// <summary>An ONNX file open for reading: its graph, and its tensors one by one, wherever they lie.</summary>
public sealed class OnnxFile : ITensorSource, IDisposable
{
    /// <summary>The ending of such files.</summary>
    public const string Extension = ".onnx";

    private readonly FileStream stream;
    private readonly Dictionary<string, (OnnxTensor Tensor, FileStream File, long Offset)> tensors = new(StringComparer.Ordinal);
    private readonly Dictionary<string, FileStream> outside = new(StringComparer.Ordinal);

    private OnnxFile(string path)
    {
        Path = path;
        stream = OpenFile(path);
        try
        {
            Graph = ReadModel(new ProtoCursor(path, stream, stream.Length));
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The path it was opened by.</summary>
    public string Path { get; }

    /// <summary>The graph.</summary>
    public OnnxGraph Graph { get; }

    /// <inheritdoc/>
    public IReadOnlyList<string> Names => [.. tensors.Keys];

    /// <summary>Opens a file and reads its graph.</summary>
    /// <exception cref="EspalierException">When it is missing, no sound ONNX file, or holds something that is not read here.</exception>
    public static OnnxFile Open(string path) => new(path);

    /// <inheritdoc/>
    public bool Contains(string name) => tensors.ContainsKey(name);

    /// <inheritdoc/>
    public TensorInfo Info(string name)
    {
        OnnxTensor tensor = Find(name).Tensor;
        return new TensorInfo(name, tensor.Type.ToString().ToUpperInvariant(), tensor.Shape, tensor.ByteCount);
    }

    /// <inheritdoc/>
    public Tensor Read(string name, ScalarType? type = null)
    {
        (OnnxTensor tensor, FileStream file, long offset) = Find(name);
        using var scope = NewDisposeScope();
        Tensor value = empty([.. tensor.Shape], dtype: OnnxTypes.ScalarTypeOf(tensor.Type), device: CPU);
        TensorBytes.ForEachPiece(value, (piece, at) =>
        {
            file.Position = offset + at;
            file.ReadExactly(piece);
        });
        return (type is { } wanted ? value.to(wanted) : value).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        stream.Dispose();
        foreach (FileStream file in outside.Values)
        {
            file.Dispose();
        }
    }

    private static FileStream OpenFile(string path)
    {
        try
        {
            return new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, 1 << 16);
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            throw new EspalierException($"The file {path} cannot be opened for reading ({fault.Message.TrimEnd('.')}); check the path and its permissions.", fault);
        }
    }

    private (OnnxTensor Tensor, FileStream File, long Offset) Find(string name) => tensors.TryGetValue(name, out (OnnxTensor, FileStream, long) found)
        ? found
        : throw new EspalierException($"{Path} has no tensor '{name}'.");

    private OnnxGraph ReadModel(ProtoCursor cursor)
    {
        (OnnxGraph? graph, int opset) = (null, 0);
        while (cursor.Next(out int field, out int wire))
        {
            switch (field)
            {
                case 7:
                    graph = ReadGraph(cursor.Message());
                    break;
                case 8:
                    (string domain, long version) = ("", 0);
                    OnnxParts.Each(cursor.Message(), (set, number, setWire) =>
                    {
                        switch (number)
                        {
                            case 1:
                                domain = set.Text();
                                break;
                            case 2:
                                version = set.Number();
                                break;
                            default:
                                set.Skip(setWire);
                                break;
                        }
                    });
                    opset = domain.Length == 0 ? (int)version : opset;
                    break;
                default:
                    cursor.Skip(wire);
                    break;
            }
        }

        cursor.Require(graph is not null && opset > 0, "it holds no graph of standard operators");
        return graph! with { Opset = opset };
    }

    private OnnxGraph ReadGraph(ProtoCursor cursor)
    {
        (List<OnnxValue> inputs, List<OnnxValue> outputs, List<OnnxNode> nodes, string name) = ([], [], [], "");
        while (cursor.Next(out int field, out int wire))
        {
            switch (field)
            {
                case 1:
                    nodes.Add(OnnxParts.ReadNode(cursor.Message()));
                    break;
                case 2:
                    name = cursor.Text();
                    break;
                case 5:
                    ReadTensor(cursor.Message());
                    break;
                case 11:
                    inputs.Add(OnnxParts.ReadValue(cursor.Message()));
                    break;
                case 12:
                    outputs.Add(OnnxParts.ReadValue(cursor.Message()));
                    break;
                default:
                    cursor.Skip(wire);
                    break;
            }
        }

        return new OnnxGraph(name, 0, inputs, outputs, nodes, [.. tensors.Values.Select(t => t.Tensor)]);
    }

    private void ReadTensor(ProtoCursor cursor)
    {
        (List<long> shape, OnnxType type, string name, (long Offset, long Length)? raw, Dictionary<string, string> entries) = ([], OnnxType.F32, "", null, []);
        while (cursor.Next(out int field, out int wire))
        {
            switch (field)
            {
                case 1:
                    shape.Add(cursor.Number());
                    break;
                case 2:
                    type = (OnnxType)cursor.Number();
                    break;
                case 8:
                    name = cursor.Text();
                    break;
                case 9:
                    raw = cursor.Pass();
                    break;
                case 13:
                    string[] pair = ["", ""];
                    OnnxParts.Each(cursor.Message(), (entry, number, entryWire) =>
                    {
                        if (number is 1 or 2)
                        {
                            pair[number - 1] = entry.Text();
                        }
                        else
                        {
                            entry.Skip(entryWire);
                        }
                    });
                    entries[pair[0]] = pair[1];
                    break;
                default:
                    cursor.Skip(wire);
                    break;
            }
        }

        cursor.Require(Enum.IsDefined(type), $"the tensor '{name}' is of type {(int)type}; float32, float16, int64 and bool can be read");
        cursor.Require(shape.All(s => s >= 0), $"the tensor '{name}' has a negative size");
        var tensor = new OnnxTensor(name, type, shape);
        (FileStream file, long offset, long length) = raw is { } inside ? (stream, inside.Offset, inside.Length) : Outside(cursor, name, entries);
        cursor.Require(length == tensor.ByteCount && offset >= 0 && offset + length <= file.Length, $"the tensor '{name}' does not have the {tensor.ByteCount} bytes that its shape needs");
        cursor.Require(tensors.TryAdd(name, (tensor, file, offset)), $"the tensor '{name}' is there twice");
    }

    private (FileStream File, long Offset, long Length) Outside(ProtoCursor cursor, string name, Dictionary<string, string> entries)
    {
        cursor.Require(entries.TryGetValue("location", out string? location) && location == System.IO.Path.GetFileName(location), $"the tensor '{name}' is neither in it nor in a file beside it");
        string beside = System.IO.Path.Combine(System.IO.Path.GetDirectoryName(System.IO.Path.GetFullPath(Path))!, location!);
        if (!outside.TryGetValue(beside, out FileStream? file))
        {
            outside[beside] = file = OpenFile(beside);
        }

        return (file, Value("offset"), Value("length"));

        long Value(string key) => long.TryParse(entries.GetValueOrDefault(key, "0"), NumberStyles.None, CultureInfo.InvariantCulture, out long value) ? value : -1;
    }
}
