using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>
/// Writes a checkpoint of random weights, tensor by tensor: for measuring time and memory at sizes for which no trained
/// model is at hand, and as a start for training.
/// </summary>
public static class RandomCheckpoint
{
    /// <summary>Writes <c>config.json</c> and the weights.</summary>
    /// <param name="config">The shape of the model.</param>
    /// <param name="folder">The output folder.</param>
    /// <param name="type">The element type stored.</param>
    /// <param name="seed">Every tensor draws from a stream of its own name.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early; nothing is left then.</param>
    /// <param name="prune">From a block's linear weight [out, in], under its name, to the one to write; null keeps them dense.</param>
    /// <returns>The number of parameters.</returns>
    public static long Write(ModelConfig config, string folder, ScalarType type, Seed seed, IProgressSink progress, CancellationToken cancellation = default, Func<string, Tensor, Tensor>? prune = null)
    {
        (string Name, long[] Shape, WeightLayout? Layout)[] tensors = [.. Shapes(config)];
        TensorInfo[] plan = [.. tensors.Select(t => ElementTypes.Plan(t.Name, type, t.Shape))];
        Directory.CreateDirectory(folder);
        using IProgressTask task = progress.Begin("writing random weights", plan.Sum(t => t.ByteCount), "B");
        using CheckpointWriter writer = CheckpointWriter.Create(folder, plan);
        foreach ((string name, long[] shape, WeightLayout? layout) in tensors)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            using Generator generator = seed.Generator($"initialize {name}");
            Tensor value = shape.Length > 1 ? randn(shape, generator: generator).mul_(config.InitializerRange)
                : name.EndsWith(".bias", StringComparison.Ordinal) ? zeros(shape) : ones(shape);
            if (layout is { } stored && prune is not null)
            {
                value = stored is WeightLayout.OutIn ? prune(name, value) : prune(name, value.t().contiguous()).t().contiguous();
            }

            writer.Write(name, value);
            task.Advance(plan.First(t => t.Name == name).ByteCount);
        }

        AtomicFile.WriteText(Path.Combine(folder, ModelConfig.FileName), config.ToJsonText());
        writer.Commit();
        return tensors.Sum(t => Count(t.Shape));
    }

    /// <summary>All tensors in order; a block's linear weights with how they lie.</summary>
    private static List<(string Name, long[] Shape, WeightLayout? Layout)> Shapes(ModelConfig config)
    {
        using var scope = NewDisposeScope();
        Architecture architecture = Architecture.For(config);
        using Embedding embedding = architecture.CreateEmbedding(config, Placement.Meta);
        var shapes = new List<(string, long[], WeightLayout?)>(Of(embedding, []));
        for (int i = 0; i < config.LayerCount; i++)
        {
            using DecoderBlock block = architecture.CreateBlock(config, i, Placement.Meta);
            shapes.AddRange(Of(block, block.Linears.ToDictionary(l => l.Name, l => l.Linear.Layout)));
        }

        using OutputHead head = architecture.CreateHead(config, embedding, Placement.Meta);
        shapes.AddRange(Of(head, []));
        return shapes;

        static IEnumerable<(string, long[], WeightLayout?)> Of(ModelPart part, Dictionary<string, WeightLayout> linears) =>
            part.Tensors.Select(t => (t.Name, t.Value.shape, linears.TryGetValue(t.Name, out WeightLayout layout) ? layout : (WeightLayout?)null));
    }

    private static long Count(long[] shape) => shape.Aggregate(1L, (a, b) => a * b);
}
