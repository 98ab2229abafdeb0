using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Export;

/// <summary>What an export of a padded checkpoint wrote.</summary>
/// <param name="Path">The folder.</param>
/// <param name="Bytes">All its tensors.</param>
/// <param name="PaddingBytes">The zeros among them that padding added.</param>
/// <param name="LogitDifference">The largest difference of logits from the model's when it was opened anew.</param>
/// <param name="Readers">Which programs load it.</param>
public sealed record CheckpointExportReport(string Path, long Bytes, long PaddingBytes, double LogitDifference, IReadOnlyList<ReaderEntry> Readers);

/// <summary>Writes a model whose blocks differ as a checkpoint of equal blocks, which every program with this architecture loads.</summary>
public static class CheckpointExport
{
    private const double Tolerance = 1e-3;

    /// <summary>Pads a checkpoint and compares the result with it before it gets its name.</summary>
    /// <param name="folder">The checkpoint.</param>
    /// <param name="output">The output folder; not the checkpoint's own.</param>
    /// <param name="progress">Told tensor by tensor; null for silence.</param>
    /// <param name="cancellation">Ends the work before anything has its final name.</param>
    /// <exception cref="EspalierException">When the model cannot be padded, the disk refuses, or the result does not answer as the model.</exception>
    public static CheckpointExportReport Run(string folder, string output, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        EspalierException.Require(Path.GetFullPath(folder).TrimEnd(Path.DirectorySeparatorChar) != Path.GetFullPath(output).TrimEnd(Path.DirectorySeparatorChar),
            $"The output folder {output} is the model itself; name another folder.");
        using StreamedModel model = StreamedModel.Open(folder);
        PaddedModel padded = PaddedModel.Of(model);
        TensorInfo[] plan = [.. padded.Names.Select(padded.Info)];
        double difference;
        using (IProgressTask task = (progress ?? SilentProgress.Instance).Begin("padding", plan.Sum(t => t.ByteCount), "B"))
        using (CheckpointWriter writer = CheckpointWriter.Create(output, plan))
        {
            foreach (TensorInfo info in plan)
            {
                cancellation.ThrowIfCancellationRequested();
                using Tensor value = padded.Read(info.Name);
                writer.Write(info.Name, value);
                task.Advance(info.ByteCount);
            }

            using (Checkpoint written = writer.OpenPending())
            using (var read = new StreamedModel(padded.Config, written))
            {
                difference = LogitComparison.Between(model, read).Largest;
            }

            EspalierException.Require(difference < Tolerance, $"The padded model does not answer as {folder} (logits differ by {difference:G3}); nothing was written.");
            CompanionFiles.Copy(CompanionFiles.All, folder, output);
            AtomicFile.WriteText(Path.Combine(output, ModelConfig.FileName), padded.Config.ToJsonText());
            writer.Commit();
        }

        return new CheckpointExportReport(output, plan.Sum(t => t.ByteCount), padded.AddedBytes, difference, ReaderMatrix.OfCheckpoint(output, difference));
    }
}
