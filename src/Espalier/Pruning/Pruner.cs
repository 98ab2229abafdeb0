using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Pruning.Measuring;
using Espalier.Runtime;

namespace Espalier.Pruning;

/// <summary>Prunes a checkpoint from disk to disk by a plan.</summary>
public static class Pruner
{
    /// <summary>Says what a job will do and refuses it where it cannot work, without doing it.</summary>
    /// <exception cref="EspalierException">With the reason.</exception>
    public static PruningPreview Preview(PruningJob job)
    {
        using Checkpoint checkpoint = Checkpoint.Open(job.Folder);
        using StreamedModel model = Open(job, checkpoint);
        PruningPreview preview = Plan(job, model);
        CheckRetraining(job.Plan, preview.Structure?.Config ?? model.Config);
        return preview;
    }

    /// <summary>Runs one block of every kind through the plan without writing anything.</summary>
    /// <param name="job">The job.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>What happened to the blocks that were tried.</returns>
    public static Task<IReadOnlyList<BlockReport>> TryAsync(PruningJob job, IProgressSink progress, CancellationToken cancellation = default) =>
        Task.Run<IReadOnlyList<BlockReport>>(() => PruningRun.Try(job, progress, cancellation), cancellation);

    /// <summary>
    /// Calibrates, prunes, repairs, retrains, evaluates before and after, and writes a checkpoint. A finished block is
    /// durable: the same job run again continues where it stopped.
    /// </summary>
    /// <param name="job">The job.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early; what is finished stays in the output's working folder.</param>
    /// <returns>Everything that was found out.</returns>
    /// <exception cref="EspalierException">When the plan cannot work, a file is damaged, or a check fails.</exception>
    public static Task<PruningReport> RunAsync(PruningJob job, IProgressSink progress, CancellationToken cancellation = default) =>
        Task.Run(() => new PruningRun(job, progress, cancellation).Run(), cancellation);

    /// <summary>
    /// Calibrates, prunes and repairs a model that fits into memory, and hands it over there: what a study that compares
    /// plans needs. Same blocks, same bytes as <see cref="RunAsync"/>; nothing is retrained, measured or written.
    /// </summary>
    /// <param name="job">The job; its output folder, retraining and evaluation are not used.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <exception cref="EspalierException">When the plan cannot work.</exception>
    public static PrunedModel InMemory(PruningJob job, IProgressSink progress, CancellationToken cancellation = default) =>
        new PruningRun(job, progress, cancellation).InMemory();

    /// <summary>
    /// Lets one part of a job's plan look at the dense model: what a study needs that uses one measurement in several plans
    /// (<see cref="IMeasuredPart.With"/>). <see cref="RunAsync"/> does it by itself.
    /// </summary>
    /// <param name="part">The part.</param>
    /// <param name="job">The job; its plan's other parts are what the part may measure with.</param>
    /// <param name="folder">Where the results are kept; a piece that lies there is not measured again.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early; finished pieces stay.</param>
    public static Measurements Measure(IMeasuredPart part, PruningJob job, string folder, IProgressSink progress, CancellationToken cancellation = default)
    {
        using Checkpoint checkpoint = Checkpoint.Open(job.Folder);
        using StreamedModel model = Open(job, checkpoint);
        return MeasuredPlan.Measure(part, job, model, folder, Plan(job, model).Spills, progress, cancellation);
    }

    /// <summary>The job's model, with the biases that a repair will fill.</summary>
    internal static StreamedModel Open(PruningJob job, Checkpoint checkpoint) =>
        Structured.ZeroBiases.For(new StreamedModel(ModelConfig.Load(job.Folder), checkpoint), job.Plan);

    internal static PruningPreview Plan(PruningJob job, StreamedModel model)
    {
        foreach (long[] window in job.Calibration.Concat(job.Evaluation))
        {
            EspalierException.Require(window.Length <= model.Config.MaxPositions,
                $"A window of {window.Length} tokens is longer than the model's context of {model.Config.MaxPositions}; choose a shorter length.");
            EspalierException.Require(window.Length > 1, "A window of one token cannot be scored; choose a longer length.");
            long largest = window.Max();
            EspalierException.Require(largest < model.Config.VocabSize,
                $"The text has token id {largest}, but the model's vocabulary ends at {model.Config.VocabSize - 1}; tokeniser and model do not belong together.");
        }

        // Of the model as it is, without biases that a repair will fill.
        return PruningPreview.Make(job, model.Config, Architecture.For(model.Config).ParameterCount(ModelConfig.Load(job.Folder)));
    }

    /// <summary>Refuses what cannot be trained: subsets that select nothing, ranks that do not fit, lengths beyond the context, another teacher's vocabulary.</summary>
    /// <param name="plan">The plan.</param>
    /// <param name="config">The model that is trained: the smaller one, where units are cut.</param>
    internal static void CheckRetraining(PruningPlan plan, ModelConfig config)
    {
        Architecture architecture = Architecture.For(config);
        using DecoderBlock block = architecture.CreateBlock(config, 0, Placement.Meta);
        plan.Reconstruction?.Check(block);
        if (plan.Retraining is not { } retraining)
        {
            return;
        }

        EspalierException.Require(LengthOf(retraining, config) <= config.MaxPositions,
            $"Retraining on {retraining.Length} tokens at once is more than the model's context of {config.MaxPositions}.");
        using Embedding embedding = architecture.CreateEmbedding(config, Placement.Meta);
        using OutputHead head = architecture.CreateHead(config, embedding, Placement.Meta);
        retraining.Check(config, block, head);
    }

    internal static int LengthOf(IRetraining retraining, ModelConfig config) => retraining.Length ?? Math.Min(256, config.MaxPositions);
}
