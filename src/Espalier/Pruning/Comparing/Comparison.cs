using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Reporting;
using Espalier.Runtime;
using TorchSharp;

namespace Espalier.Pruning.Comparing;

/// <summary>
/// Runs several plans on one model, each with every seed, on the same windows, and compares what came of them. A finished
/// run is durable: the same comparison run again takes it as it is.
/// </summary>
public static class Comparison
{
    /// <summary>Runs what has not been run before, and writes <c>compare.json</c> and <c>compare.html</c> into the output folder.</summary>
    /// <param name="request">The plans and the seeds.</param>
    /// <param name="device">Where to compute.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early; finished runs stay, an unfinished one goes on after its last finished block.</param>
    /// <returns>All that was found out; a run that failed is in it with the reason, and does not stop the others.</returns>
    /// <exception cref="EspalierException">When the request cannot work (see <see cref="ComparisonRequest.Check"/>), or model or texts are not there.</exception>
    public static Task<ComparisonReport> RunAsync(ComparisonRequest request, torch.Device device, IProgressSink progress, CancellationToken cancellation = default)
    {
        request.Check();
        return Task.Run(() => new ComparisonRun(request, device, progress, cancellation).RunAsync(), cancellation);
    }
}

/// <summary>One pass over all plans and seeds.</summary>
internal sealed class ComparisonRun(ComparisonRequest request, torch.Device device, IProgressSink progress, CancellationToken cancellation)
{
    private readonly PruneTexts _texts = new(progress, cancellation);
    private readonly string _out = Path.GetFullPath(request.Out);

    public async Task<ComparisonReport> RunAsync()
    {
        // Evaluation text alone: what a plan needs beyond that is its own affair, and may fail alone.
        NamedPlan first = request.Plans[0];
        PruningJob shared = Job(first with { Request = first.Request with { Data = first.Request.Data with { Calibration = null } } }, request.Seeds[0], null, fresh: false);
        string checkpoint = CheckpointOf(shared.Folder);
        StageQuality dense = Dense(shared, checkpoint);
        var runs = request.Plans.ToDictionary(p => p.Name, _ => new List<SeedRun>());
        using (IProgressTask task = progress.Begin("comparing", (long)request.Plans.Count * request.Seeds.Count, "run"))
        {
            foreach (long seed in request.Seeds)
            {
                foreach (NamedPlan plan in request.Plans)
                {
                    task.Describe(string.Create(CultureInfo.InvariantCulture, $"{plan.Name}, seed {seed}"));
                    runs[plan.Name].Add(await TryAsync(plan, seed, dense, checkpoint).ConfigureAwait(false));
                    task.Advance();
                }
            }
        }

        ComparisonReport report = ComparisonReport.Of(request, shared, dense, runs);
        ReportJson.Save(Path.Combine(_out, "compare.json"), report);
        ComparisonPage.Make(report).Save(Path.Combine(_out, "compare.html"));
        return report;
    }

    private async Task<SeedRun> TryAsync(NamedPlan plan, long seed, StageQuality dense, string checkpoint)
    {
        string folder = Path.Combine("runs", string.Create(CultureInfo.InvariantCulture, $"{plan.FolderName}-seed{seed}"));
        try
        {
            RunFigures figures = await MeasuredAsync(plan, seed, dense, checkpoint, Path.Combine(_out, folder)).ConfigureAwait(false);
            return new SeedRun(seed, folder, figures, null);
        }
        catch (Exception fault) when (fault is not OperationCanceledException)
        {
            string sentence = fault is EspalierException ? fault.Message : $"{fault.GetType().Name}: {fault.Message}";
            progress.Warn($"{plan.Name}, seed {seed} failed: {sentence}");
            return new SeedRun(seed, folder, null, sentence);
        }
    }

    private async Task<RunFigures> MeasuredAsync(NamedPlan plan, long seed, StageQuality dense, string checkpoint, string folder)
    {
        PruningJob job = Job(plan, seed, folder, fresh: false) with { Dense = dense };
        string path = Path.Combine(folder, "run.json");
        Dictionary<string, string> fingerprint = job.Plan.Describe().ToDictionary(p => p.Part, p => p.Value);
        fingerprint["checkpoint"] = checkpoint;
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
        if (same && earlier!.Figures is { } finished && (!request.Keep || Weights(folder).Any()))
        {
            progress.Say($"{plan.Name}, seed {seed} was run before ({folder}).");
            return finished;
        }

        bool continued = same && Directory.Exists(Path.Combine(folder, ".espalier-work"));
        progress.Say($"{plan.Name}, seed {seed}{(continued ? ", goes on" : "")}:");
        Pruner.Preview(job);
        ReportJson.Save(path, new RunRecord(fingerprint, null));
        PruningReport report = await Pruner.RunAsync(job with { Fresh = earlier is not null && !same }, progress, cancellation).ConfigureAwait(false);
        RunFigures figures = RunMeasuring.Of(report, job, continued, cancellation);
        PruningReportPage.SaveAll(report);
        if (!request.Keep)
        {
            foreach (string file in Weights(folder))
            {
                File.Delete(file);
            }
        }

        ReportJson.Save(path, new RunRecord(fingerprint, figures));
        return figures;
    }

    private StageQuality Dense(PruningJob job, string checkpoint)
    {
        string path = Path.Combine(_out, "dense.json");
        var fingerprint = new Dictionary<string, string> { ["checkpoint"] = checkpoint, ["evaluation text"] = job.Data["evaluation"] };
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

    private PruningJob Job(NamedPlan plan, long seed, string? folder, bool fresh) => PruneJobs.Make(
        plan.Request with { Seed = seed, Out = folder ?? _out, Data = plan.Request.Data with { Prompts = [] } }, device, fresh, progress, cancellation, _texts);

    // Also the weights' sizes and times: the hash looks at small tensors only, and a finished run may be old.
    private static string CheckpointOf(string folder)
    {
        using Checkpoint checkpoint = Checkpoint.Open(folder);
        IEnumerable<string> files = checkpoint.Files.Select(f => new FileInfo(f.Path)).Select(f => string.Create(CultureInfo.InvariantCulture, $"{f.Name} {f.LastWriteTimeUtc:yyyy-MM-ddTHH:mm:ss.fffffff}"));
        return string.Create(CultureInfo.InvariantCulture, $"{Fingerprint.Of(folder, checkpoint)}, {checkpoint.TotalBytes} bytes, {string.Join(", ", files)}");
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

    private sealed record RunRecord(IReadOnlyDictionary<string, string>? Fingerprint, RunFigures? Figures);

    private sealed record DenseRecord(IReadOnlyDictionary<string, string>? Fingerprint, StageQuality? Quality);
}
