using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>Writes the finished checkpoint so that other tools load it, and opens it again to see that it is what was meant.</summary>
internal static class OutputWriter
{
    /// <summary>Writes every tensor in the order and element type that its source names, the masks, the configuration and the model's other files.</summary>
    /// <param name="job">The job.</param>
    /// <param name="config">The configuration of what is written; the model's own where nothing in it changed.</param>
    /// <param name="tensors">The tensors.</param>
    /// <param name="pruned">Where the masks are.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work before anything has its final name.</param>
    public static void Write(
        PruningJob job, ModelConfig config, ITensorSource tensors, IPrunedModel pruned, IProgressSink progress, CancellationToken cancellation)
    {
        TensorInfo[] plan = [.. tensors.Names.Select(tensors.Info)];
        using IProgressTask task = progress.Begin("writing", plan.Sum(t => t.ByteCount), "B");
        using (CheckpointWriter writer = CheckpointWriter.Create(job.Out, plan))
        {
            foreach (TensorInfo info in plan)
            {
                using var scope = NewDisposeScope();
                cancellation.ThrowIfCancellationRequested();
                Tensor value = tensors.Read(info.Name, ElementTypes.ScalarTypeOf(info.ElementType));
                writer.Write(info.Name, value);
                task.Advance(info.ByteCount);
            }

            CompanionFiles.Copy(CompanionFiles.All, job.Folder, job.Out);
            if (config.ToJsonText() != ModelConfig.Load(job.Folder).ToJsonText())
            {
                AtomicFile.WriteText(Path.Combine(job.Out, ModelConfig.FileName), config.ToJsonText());
            }

            writer.Commit();
            if (pruned.Names.Count > 0)
            {
                SparsityMasks.Save(job.Out, pruned.Names, pruned.Mask);
            }
            else
            {
                // Masks of an earlier run into this folder belong to another model.
                File.Delete(Path.Combine(job.Out, SparsityMasks.FileName));
            }
        }
    }

    /// <summary>Opens the written checkpoint cold and compares its logits with those of the tensors it was written from.</summary>
    /// <returns>The largest difference over one short sequence.</returns>
    /// <exception cref="EspalierException">When they differ by more than rounding.</exception>
    public static double CompareReopened(PruningJob job, ModelConfig config, ITensorSource tensors)
    {
        NativeMemory.Trim();
        using StreamedModel meant = new StreamedModel(config, new RoundedSource(tensors));
        using Checkpoint written = Checkpoint.Open(job.Out);
        using StreamedModel read = new StreamedModel(ModelConfig.Load(job.Out), written);
        double difference = LogitComparison.Between(meant, read, job.Device).Largest;
        EspalierException.Require(difference < 1e-3, $"The checkpoint in {job.Out} does not answer as the model it was written from (logits differ by {difference:G3}); the disk or the writer is at fault, do not use it.");
        return difference;
    }

    // What was meant, rounded as it is stored.
    private sealed class RoundedSource : ITensorSource
    {
        private readonly ITensorSource _inner;
        private readonly Dictionary<string, ScalarType> _stored = [];

        public RoundedSource(ITensorSource inner)
        {
            _inner = inner;
            foreach (string name in inner.Names)
            {
                _stored[name] = ElementTypes.ScalarTypeOf(inner.Info(name).ElementType);
            }
        }

        public IReadOnlyList<string> Names => _inner.Names;

        public bool Contains(string name) => _inner.Contains(name);

        public TensorInfo Info(string name) => _inner.Info(name);

        public Tensor Read(string name, ScalarType? type = null)
        {
            using var scope = NewDisposeScope();
            Tensor rounded = _inner.Read(name, _stored[name]);
            return (type is null ? rounded : rounded.to(type.Value)).MoveToOuterDisposeScope();
        }
    }
}
