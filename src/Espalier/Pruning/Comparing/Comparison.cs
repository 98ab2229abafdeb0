using System.Globalization;
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
        return Task.Run(() => new ComparisonRun(request, new PlanRuns(device, progress, cancellation), progress).RunAsync(), cancellation);
    }
}

/// <summary>One pass over all plans and seeds.</summary>
/// <param name="request">The plans and the seeds.</param>
/// <param name="runs">What makes the runs durable.</param>
/// <param name="progress">Where progress is told.</param>
internal sealed class ComparisonRun(ComparisonRequest request, PlanRuns runs, IProgressSink progress)
{
    private readonly string _out = Path.GetFullPath(request.Out);

    public async Task<ComparisonReport> RunAsync()
    {
        PruningJob shared = runs.Evaluation(request.Plans[0], request.Seeds[0], _out);
        StageQuality dense = runs.Dense(shared);
        var found = request.Plans.ToDictionary(p => p.Name, _ => new List<SeedRun>());
        using (IProgressTask task = progress.Begin("comparing", (long)request.Plans.Count * request.Seeds.Count, "run"))
        {
            foreach (long seed in request.Seeds)
            {
                foreach (NamedPlan plan in request.Plans)
                {
                    task.Describe(string.Create(CultureInfo.InvariantCulture, $"{plan.Name}, seed {seed}"));
                    found[plan.Name].Add(await TryAsync(plan, seed, dense).ConfigureAwait(false));
                    task.Advance();
                }
            }
        }

        ComparisonReport report = ComparisonReport.Of(request, shared, dense, found);
        ReportJson.Save(Path.Combine(_out, "compare.json"), report);
        ComparisonPage.Make(report).Save(Path.Combine(_out, "compare.html"));
        return report;
    }

    private async Task<SeedRun> TryAsync(NamedPlan plan, long seed, StageQuality dense)
    {
        string folder = Path.Combine("runs", string.Create(CultureInfo.InvariantCulture, $"{plan.FolderName}-seed{seed}"));
        try
        {
            PlanFigures figures = await runs.MeasuredAsync(plan, seed, Path.Combine(_out, folder), dense, request.Keep).ConfigureAwait(false);
            return new SeedRun(seed, folder, figures, null);
        }
        catch (Exception fault) when (fault is not OperationCanceledException)
        {
            string sentence = fault is EspalierException ? fault.Message : $"{fault.GetType().Name}: {fault.Message}";
            progress.Warn($"{plan.Name}, seed {seed} failed: {sentence}");
            return new SeedRun(seed, folder, null, sentence);
        }
    }
}
