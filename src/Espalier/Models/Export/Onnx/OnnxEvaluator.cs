using Espalier.Checkpoints.Onnx;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Export.Onnx;

/// <summary>
/// Runs the graph of an ONNX file that was opened anew: how an export proves that the file says what the model says. It knows
/// the operators that are exported here, and holds a tensor from its first use to its last.
/// </summary>
internal sealed class OnnxEvaluator(OnnxFile file)
{
    private static readonly Dictionary<string, Func<OnnxNode, Tensor[], Tensor>> Operators = new(StringComparer.Ordinal)
    {
        ["Add"] = (_, x) => x[0] + x[1],
        ["Sub"] = (_, x) => x[0] - x[1],
        ["Mul"] = (_, x) => x[0] * x[1],
        ["Div"] = (_, x) => x[0] / x[1],
        ["Pow"] = (_, x) => x[0].pow(x[1]),
        ["Sqrt"] = (_, x) => x[0].sqrt(),
        ["Erf"] = (_, x) => x[0].erf(),
        ["Tanh"] = (_, x) => x[0].tanh(),
        ["Sigmoid"] = (_, x) => x[0].sigmoid(),
        ["Relu"] = (_, x) => x[0].relu(),
        ["Identity"] = (_, x) => x[0].alias(),
        ["Less"] = (_, x) => x[0] < x[1],
        ["GreaterOrEqual"] = (_, x) => x[0] >= x[1],
        ["And"] = (_, x) => x[0].logical_and(x[1]),
        ["Where"] = (_, x) => where(x[0], x[1], x[2]),
        ["MatMul"] = (_, x) => x[0].matmul(x[1]),
        ["Softmax"] = (n, x) => x[0].softmax(n.Number("axis", -1)),
        ["Cast"] = (n, x) => x[0].to(OnnxTypes.ScalarTypeOf((OnnxType)n.Number("to", 1)), copy: true),
        ["Shape"] = (_, x) => tensor(x[0].shape),
        ["Range"] = (_, x) => arange(x[0].item<long>(), x[1].item<long>(), x[2].item<long>(), ScalarType.Int64),
        ["Gather"] = (n, x) => Gather(x[0], x[1], n.Number("axis", 0)),
        ["Reshape"] = (_, x) => Reshape(x[0], Longs(x[1])),
        ["Expand"] = (_, x) => x[0].expand([.. Longs(x[1]).Select((size, i) => size == 1 ? x[0].shape[i] : size)]),
        ["Unsqueeze"] = (_, x) => Longs(x[1]).Order().Aggregate(x[0].alias(), (y, axis) => y.unsqueeze(axis)),
        ["Transpose"] = (n, x) => x[0].permute(n.Numbers("perm")),
        ["Concat"] = (n, x) => cat(x, n.Number("axis", 0)),
        ["ReduceMean"] = (n, x) => x[0].mean(n.Numbers("axes"), n.Number("keepdims", 1) == 1),
        ["ReduceMax"] = (n, x) => x[0].amax(n.Numbers("axes"), n.Number("keepdims", 1) == 1),
        ["Or"] = (_, x) => x[0].logical_or(x[1]),
        ["Slice"] = (_, x) => Slice(x[0], Longs(x[1]), Longs(x[2]), Longs(x[3]), Longs(x[4])),
        ["Conv"] = (n, x) => nn.functional.conv2d(x[0], x[1], x.Length > 2 ? x[2] : null, n.Numbers("strides"), n.Numbers("pads")[..2]),
        ["MaxPool"] = (n, x) => nn.functional.max_pool2d(x[0], n.Numbers("kernel_shape"), n.Numbers("strides"), n.Numbers("pads")[..2]),
        ["BatchNormalization"] = (n, x) => nn.functional.batch_norm(x[0], x[3], x[4], x[1], x[2], eps: Real(n, "epsilon", 1e-5f)),
        ["DepthToSpace"] = (n, x) => nn.functional.pixel_shuffle(x[0], n.Number("blocksize", 1)),
        ["LayerNormalization"] = (n, x) => nn.functional.layer_norm(x[0], [x[0].shape[^1]], x[1], x.Length > 2 ? x[2] : null, Real(n, "epsilon", 1e-5f)),
    };

    /// <summary>Computes one output.</summary>
    /// <param name="inputs">What is given, by name; it stays the caller's.</param>
    /// <param name="output">The output's name.</param>
    /// <param name="cancellation">Ends the work between two operations.</param>
    /// <returns>Its value; the caller's scope disposes it.</returns>
    /// <exception cref="EspalierException">When the file has an operator that is not known here, or a value is missing.</exception>
    public Tensor Run(IReadOnlyDictionary<string, Tensor> inputs, string output, CancellationToken cancellation = default)
    {
        using var _ = no_grad();
        IReadOnlyList<OnnxNode> nodes = file.Graph.Nodes;
        var last = new Dictionary<string, int>(StringComparer.Ordinal) { [output] = int.MaxValue };
        for (int i = 0; i < nodes.Count; i++)
        {
            foreach (string input in nodes[i].Inputs.Where(n => n != output))
            {
                last[input] = i;
            }
        }

        var held = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        try
        {
            for (int i = 0; i < nodes.Count; i++)
            {
                cancellation.ThrowIfCancellationRequested();
                Compute(nodes[i], inputs, held);
                foreach (string done in nodes[i].Inputs.Concat(nodes[i].Outputs).Distinct().Where(n => last.GetValueOrDefault(n, -1) <= i && held.ContainsKey(n)).ToArray())
                {
                    held.Remove(done, out Tensor? value);
                    value!.Dispose();
                }
            }

            EspalierException.Require(held.Remove(output, out Tensor? result), $"{file.Path} has no output '{output}'.");
            // Held outside every scope until here; a copy belongs to the caller's.
            Tensor answer = result.clone();
            result.Dispose();
            return answer;
        }
        finally
        {
            foreach (Tensor value in held.Values)
            {
                value.Dispose();
            }
        }
    }

    private void Compute(OnnxNode node, IReadOnlyDictionary<string, Tensor> inputs, Dictionary<string, Tensor> held)
    {
        using var scope = NewDisposeScope();
        Tensor[] from = [.. node.Inputs.Select(Find)];
        Tensor[] made;
        if (node.Operator == "Split")
        {
            made = from[0].split(Longs(from[1]), node.Number("axis", 0));
        }
        else
        {
            EspalierException.Require(Operators.TryGetValue(node.Operator, out Func<OnnxNode, Tensor[], Tensor>? operation), $"{file.Path} has the operator {node.Operator}, which cannot be run here; known are {string.Join(", ", Operators.Keys)}.");
            made = [operation(node, from)];
        }

        foreach ((string name, Tensor value) in node.Outputs.Zip(made))
        {
            held[name] = value.DetachFromDisposeScope();
        }

        Tensor Find(string name)
        {
            if (held.TryGetValue(name, out Tensor? there) || inputs.TryGetValue(name, out there))
            {
                return there;
            }

            Tensor read = file.Read(name);
            held[name] = read.DetachFromDisposeScope();
            return read;
        }
    }

    private static float Real(OnnxNode node, string name, float standIn) => node.Attributes.TryGetValue(name, out object? value) ? (float)value : standIn;

    private static long[] Longs(Tensor numbers) => numbers.data<long>().ToArray();

    private static Tensor Gather(Tensor table, Tensor rows, long axis)
    {
        Tensor taken = table.index_select(axis, rows.reshape(-1));
        return taken.reshape([.. table.shape[..(int)axis], .. rows.shape, .. table.shape[((int)axis + 1)..]]);
    }

    private static Tensor Slice(Tensor value, long[] starts, long[] ends, long[] axes, long[] steps)
    {
        Tensor cut = value.alias();
        for (int i = 0; i < axes.Length; i++)
        {
            cut = cut.slice(axes[i], starts[i], Math.Min(ends[i], cut.shape[axes[i]]), steps[i]);
        }

        return cut;
    }

    // 0 keeps a size.
    private static Tensor Reshape(Tensor value, long[] sizes) => value.reshape([.. sizes.Select((size, i) => size == 0 ? value.shape[i] : size)]);
}
