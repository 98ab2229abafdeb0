using System.Globalization;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Checkpoints.Onnx;

/// <summary>
/// Writes one ONNX file, tensor by tensor, all or nothing. A protobuf message ends at 2 GB: beyond that the tensors lie in a
/// second file beside it (<c>NAME.data</c>), as the standard's external data.
/// </summary>
public sealed class OnnxWriter : IDisposable
{
    /// <summary>What is put after the file's name for the second file.</summary>
    public const string DataSuffix = ".data";

    /// <summary>The version of the format: the one that belongs to opset 17.</summary>
    internal const int FormatVersion = 8;

    /// <summary>The most bytes that a file may have without a second one.</summary>
    internal const long LargestMessage = int.MaxValue - (1L << 20);

    private const int SmallestOutside = 1024, DataAlignment = 4096;
    private readonly Dictionary<string, (OnnxTensor Tensor, long Offset, bool Outside)> waiting = new(StringComparer.Ordinal);
    private readonly string path;
    private readonly IFileLayer layer;
    private readonly PendingFile file;
    private readonly PendingFile? data;

    private OnnxWriter(string path, OnnxGraph graph, long largest, IFileLayer layer)
    {
        (this.path, this.layer) = (Path.GetFullPath(path), layer);
        bool outside = graph.Tensors.Sum(t => t.ByteCount) > largest;
        long dataLength = 0;
        var parts = new List<(byte[] Head, OnnxTensor? Inside)> { (GraphHead(graph), null) };
        foreach (OnnxTensor tensor in graph.Tensors)
        {
            bool isOutside = outside && tensor.ByteCount >= SmallestOutside;
            ProtoMessage message = TensorHead(tensor);
            if (isOutside)
            {
                dataLength = (dataLength + DataAlignment - 1) / DataAlignment * DataAlignment;
                Entry(message, "location", Path.GetFileName(this.path) + DataSuffix);
                Entry(message, "offset", dataLength.ToString(CultureInfo.InvariantCulture));
                Entry(message, "length", tensor.ByteCount.ToString(CultureInfo.InvariantCulture));
                message.Number(14, 1);
            }
            else
            {
                message.Begin(9, tensor.ByteCount);
            }

            EspalierException.Require(waiting.TryAdd(tensor.Name, (tensor, dataLength, isOutside)), $"Tensor '{tensor.Name}' is planned twice for {path}.");
            dataLength += isOutside ? tensor.ByteCount : 0;
            byte[] head = message.ToArray();
            parts.Add(([.. new ProtoMessage().Begin(5, head.Length + (isOutside ? 0 : tensor.ByteCount)).ToArray(), .. head], isOutside ? null : tensor));
        }

        byte[] modelHead = [.. ModelHead(graph), .. new ProtoMessage().Begin(7, parts.Sum(p => p.Head.Length + (p.Inside?.ByteCount ?? 0))).ToArray()];
        parts.Insert(0, (modelHead, null));
        long length = parts.Sum(p => p.Head.Length + (p.Inside?.ByteCount ?? 0));
        file = new PendingFile(path, length, layer);
        try
        {
            file.Write(stream => Lay(stream, parts, length));
            if (dataLength > 0)
            {
                data = new PendingFile(path + DataSuffix, dataLength, layer);
                data.Write(stream => stream.SetLength(dataLength));
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Begins a file.</summary>
    /// <param name="path">The file; its folder is made when there is none.</param>
    /// <param name="graph">What it holds; every tensor of it is to be written.</param>
    /// <exception cref="EspalierException">When a tensor is planned twice, or the disk refuses.</exception>
    public static OnnxWriter Create(string path, OnnxGraph graph) => new(path, graph, LargestMessage, FileSystem.Instance);

    /// <summary>The same with another limit and through another file layer.</summary>
    internal static OnnxWriter Create(string path, OnnxGraph graph, long largest, IFileLayer layer) => new(path, graph, largest, layer);

    /// <summary>Writes one tensor, converted to the planned type.</summary>
    /// <exception cref="EspalierException">When name or shape are not the planned ones, a value is too large for the type, or the disk refuses.</exception>
    public void Write(string name, Tensor tensor)
    {
        EspalierException.Require(waiting.Remove(name, out (OnnxTensor Tensor, long Offset, bool Outside) place), $"Tensor '{name}' was not planned for {path}, or was written already.");
        EspalierException.Require(tensor.shape.AsSpan().SequenceEqual(place.Tensor.Shape.ToArray()),
            $"Tensor '{name}' has shape [{string.Join(", ", tensor.shape)}] but [{string.Join(", ", place.Tensor.Shape)}] was planned.");
        using var scope = NewDisposeScope();
        Tensor stored = tensor.detach().cpu().to(OnnxTypes.ScalarTypeOf(place.Tensor.Type)).contiguous();
        EspalierException.Require(place.Tensor.Type != OnnxType.F16 || !tensor.isfinite().logical_and(stored.isfinite().logical_not()).any().item<bool>(),
            $"Tensor '{name}' has values beyond 65504, which float16 cannot hold; use f32.");
        PendingFile target = place.Outside ? data! : file;
        TensorBytes.ForEachPiece(stored, (piece, at) =>
        {
            byte[] bytes = piece.ToArray();
            target.Write(stream =>
            {
                stream.Position = place.Offset + at;
                stream.Write(bytes);
            });
        });
    }

    /// <summary>Puts the file, and the second one where there is one, in place of an older one. An older file with data of its own goes first, so that no mixture can be read.</summary>
    /// <exception cref="EspalierException">When a tensor was not written, or the disk refuses.</exception>
    public void Commit()
    {
        EspalierException.Require(waiting.Count == 0, $"{waiting.Count} tensors of {path} were not written ({waiting.Keys.FirstOrDefault()}).");
        file.Finish();
        if (data is not null)
        {
            data.Finish();
            layer.Delete(path);
            data.Publish();
        }

        file.Publish();
    }

    /// <summary>Closes the writer; without a commit nothing of it remains.</summary>
    public void Dispose()
    {
        file.Dispose();
        data?.Dispose();
    }

    private void Lay(Stream stream, List<(byte[] Head, OnnxTensor? Inside)> parts, long length)
    {
        stream.SetLength(length);
        stream.Position = 0;
        foreach ((byte[] head, OnnxTensor? inside) in parts)
        {
            stream.Write(head);
            if (inside is not null)
            {
                waiting[inside.Name] = (inside, stream.Position, false);
                stream.Position += inside.ByteCount;
            }
        }
    }

    private static byte[] ModelHead(OnnxGraph graph) => new ProtoMessage().Number(1, FormatVersion).Text(2, "espalier")
        .Message(8, new ProtoMessage().Text(1, "").Number(2, graph.Opset)).ToArray();

    private static byte[] GraphHead(OnnxGraph graph)
    {
        var message = new ProtoMessage();
        foreach ((OnnxNode node, int i) in graph.Nodes.Select((n, i) => (n, i)))
        {
            message.Message(1, Node(node, i));
        }

        message.Text(2, graph.Name);
        foreach ((int field, OnnxValue value) in graph.Inputs.Select(v => (11, v)).Concat(graph.Outputs.Select(v => (12, v))))
        {
            var shape = new ProtoMessage();
            foreach (OnnxAxis axis in value.Axes)
            {
                shape.Message(1, axis.Name is { } name ? new ProtoMessage().Text(2, name) : new ProtoMessage().Number(1, axis.Size));
            }

            ProtoMessage type = new ProtoMessage().Message(1, new ProtoMessage().Number(1, (long)value.Type).Message(2, shape));
            message.Message(field, new ProtoMessage().Text(1, value.Name).Message(2, type));
        }

        return message.ToArray();
    }

    private static ProtoMessage Node(OnnxNode node, int number)
    {
        var message = new ProtoMessage();
        foreach (string input in node.Inputs)
        {
            message.Text(1, input);
        }

        foreach (string output in node.Outputs)
        {
            message.Text(2, output);
        }

        message.Text(3, string.Create(CultureInfo.InvariantCulture, $"{node.Operator}:{number}")).Text(4, node.Operator);
        foreach ((string name, object value) in node.Attributes)
        {
            ProtoMessage attribute = new ProtoMessage().Text(1, name);
            message.Message(5, value switch
            {
                float real => attribute.Real(2, real).Number(20, 1),
                long number64 => attribute.Number(3, number64).Number(20, 2),
                string text => attribute.Text(4, text).Number(20, 3),
                long[] list => list.Aggregate(attribute, (a, n) => a.Number(8, n)).Number(20, 7),
                _ => throw new ArgumentException($"The attribute {name} of {node.Operator} is a {value.GetType().Name}."),
            });
        }

        return message;
    }

    private static ProtoMessage TensorHead(OnnxTensor tensor) =>
        tensor.Shape.Aggregate(new ProtoMessage(), (m, size) => m.Number(1, size)).Number(2, (long)tensor.Type).Text(8, tensor.Name);

    private static void Entry(ProtoMessage message, string key, string value) => message.Message(13, new ProtoMessage().Text(1, key).Text(2, value));
}
