using System.Globalization;
using System.Text;
using Espalier.Checkpoints;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Reporting;
using Espalier.Runtime;
using TorchSharp;

namespace Espalier.Pruning.Comparing;

/// <summary>
/// Durable runs of plans on one model and the same texts, measured alike: what comparisons and searches are made of. A finished
/// run is taken as it is, an unfinished one goes on, and one whose plan, text or model has changed is made anew.
/// </summary>
/// <param name="device">Where to compute.</param>
/// <param name="progress">Where progress is told.</param>
/// <param name="cancellation">Ends the work early; finished runs stay.</param>
internal sealed class PlanRuns(torch.Device device, IProgressSink progress, CancellationToken cancellation)
{
    private readonly PruneTexts _texts = new(progress, cancellation);
    private string? _checkpoint;

    /// <summary>Where the importance of units is kept for all plans of one criterion; null: each run measures its own.</summary>
    public string? Importance { get; init; }

    /// <summary>The job of a plan with one seed.</summary>
    public PruningJob Job(NamedPlan plan, long seed, string folder)
    {
        PruningJob job = PruneJobs.Make(plan.Request with { Seed = seed, Out = folder, Data = plan.Request.Data with { Prompts = [] } }, device, fresh: false, progress, cancellation, _texts);
        if (Importance is null || !job.Plan.IsStructured)
        {
            return job;
        }

        // Another criterion, draw or model is another importance.
        string key = $"{job.Plan.Describe().First(p => p.Part == "criterion").Value}, seed {seed}, {Fingerprint.Windows(job.Calibration)}, {CheckpointOf(job)}";
        return job with { Importance = Path.Combine(Importance, PruningJournal.Hash(Encoding.UTF8.GetBytes(key))) };
    }

    /// <summary>A job with the evaluation text alone: what a plan needs beyond that is its own affair, and may fail alone.</summary>
    public PruningJob Evaluation(NamedPlan plan, long seed, string folder) =>
        Job(plan with { Request = plan.Request with { Data = plan.Request.Data with { Calibration = null } } }, seed, folder);

    /// <summary>The dense model's quality, measured once and kept in <c>dense.json</c> of the job's output folder.</summary>
    public StageQuality Dense(PruningJob job)
    {
        string path = Path.Combine(job.Out, "dense.json");
        var fingerprint = new Dictionary<string, string> { ["checkpoint"] = CheckpointOf(job), ["evaluation text"] = job.Data["evaluation"] };
        if (Known<DenseRecord>(path) is { Quality: { } known } earlier && Same(earlier.Fingerprint, fingerprint))
        {
            return known;
        }

        using StreamedModel model = StreamedModel.Open(job.Folder);
        PerplexityResult result = StreamedPerplexity.Evaluate(model, job.Evaluation, device, "perplexity, dense", progress, null, cancellation);
        var quality = new StageQuality("dense", result.Value, result.StandardErrorOfLog);
        ReportJson.Save(path, new DenseRecord(fingerprint, quality));
        return quality;
    }

    /// <summary>Runs a plan with one seed, unless that was done before, and measures what it wrote.</summary>
    /// <param name="plan">The plan.</param>
    /// <param name="seed">The seed.</param>
    /// <param name="folder">Where it writes.</param>
    /// <param name="dense">The dense model's quality.</param>
    /// <param name="keep">Keep the checkpoint; else its weights are deleted when they have been measured.</param>
    public async Task<PlanFigures> MeasuredAsync(NamedPlan plan, long seed, string folder, StageQuality dense, bool keep)
    {
        PruningJob job = Job(plan, seed, folder) with { Dense = dense };
        string path = Path.Combine(folder, "run.json");
        Dictionary<string, string> fingerprint = job.Plan.Describe().ToDictionary(p => p.Part, p => p.Value);
        fingerprint["checkpoint"] = CheckpointOf(job);
        foreach ((string text, string content) in job.Data)
        {
            fingerprint[$"{text} text"] = content;
        }

        // Windows are known by their content; retraining text is not read before it is needed.
        if (job.Data.TryGetValue("retraining", out string? training))
        {
            fingerprint["retraining files"] = _texts.Open(training).State;
        }

        RunRecord? earlier = Known<RunRecord>(path);
        bool same = earlier is not null && Same(earlier.Fingerprint, fingerprint);
        if (same && earlier!.Figures is { } finished && (!keep || Weights(folder).Any()))
        {
            progress.Say($"{plan.Name}, seed {seed} was run before ({folder}).");
            return finished;
        }

        bool continued = same && Directory.Exists(Path.Combine(folder, ".espalier-work"));
        progress.Say($"{plan.Name}, seed {seed}{(continued ? ", goes on" : "")}:");
        Pruner.Preview(job);
        ReportJson.Save(path, new RunRecord(fingerprint, null));
        PruningReport report = await Pruner.RunAsync(job with { Fresh = earlier is not null && !same }, progress, cancellation).ConfigureAwait(false);
        PlanFigures figures = RunMeasuring.Of(report, job, continued, cancellation);
        PruningReportPage.SaveAll(report);
        if (!keep)
        {
            foreach (string file in Weights(folder))
            {
                File.Delete(file);
            }
        }

        ReportJson.Save(path, new RunRecord(fingerprint, figures));
        return figures;
    }

    // Also the weights' sizes and times: the hash looks at small tensors only, and a finished run may be old.
    private string CheckpointOf(PruningJob job)
    {
        if (_checkpoint is not null)
        {
            return _checkpoint;
        }

        using Checkpoint checkpoint = Checkpoint.Open(job.Folder);
        IEnumerable<string> files = checkpoint.Files.Select(f => new FileInfo(f.Path)).Select(f => string.Create(CultureInfo.InvariantCulture, $"{f.Name} {f.LastWriteTimeUtc:yyyy-MM-ddTHH:mm:ss.fffffff}"));
        return _checkpoint = string.Create(CultureInfo.InvariantCulture, $"{Fingerprint.Of(job.Folder, checkpoint)}, {checkpoint.TotalBytes} bytes, {string.Join(", ", files)}");
    }

    private static IEnumerable<string> Weights(string folder) => Directory.Exists(folder)
        ? Directory.EnumerateFiles(folder).Where(f => f.EndsWith(".safetensors", StringComparison.Ordinal) || f.EndsWith(".safetensors.index.json", StringComparison.Ordinal))
        : [];

    private static bool Same(IReadOnlyDictionary<string, string>? earlier, Dictionary<string, string> now) =>
        earlier is not null && earlier.Count == now.Count && now.All(p => earlier.GetValueOrDefault(p.Key) == p.Value);

    // A damaged file is measured anew.
    private static T? Known<T>(string path)
        where T : class
    {
        try
        {
            return File.Exists(path) ? ReportJson.Load<T>(path) : null;
        }
        catch (EspalierException)
        {
            return null;
        }
    }

    private sealed record RunRecord(IReadOnlyDictionary<string, string>? Fingerprint, PlanFigures? Figures);

    private sealed record DenseRecord(IReadOnlyDictionary<string, string>? Fingerprint, StageQuality? Quality);
}
