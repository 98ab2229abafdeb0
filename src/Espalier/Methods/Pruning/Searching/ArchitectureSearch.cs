using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Pruning.Comparing;
using Espalier.Reporting;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning.Searching;

/// <summary>
/// Minitron's step 6: enumerates the architectures near a number of parameters, cuts the model to each, retrains each lightly, and
/// takes the best of them through the full retraining. The original model is the teacher of both.
/// </summary>
/// <remarks>
/// The candidates are the plans of a comparison (<see cref="Comparison"/>): durable runs, one dense measurement, the same windows. The
/// importance of all units is measured once. The chosen model is cut again and retrained from there, so that an ordinary plan gives the
/// same bytes; what the light retraining taught it is not used.
/// </remarks>
public static class ArchitectureSearch
{
    /// <summary>The folder of the candidates' runs within the output folder.</summary>
    public const string Folder = "search";

    /// <summary>Says which candidates there are and how long the search will take, and refuses what cannot work, without any of the work.</summary>
    /// <param name="request">What is searched.</param>
    /// <param name="device">Where to compute.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>The candidates and the estimated time.</returns>
    /// <exception cref="EspalierException">For sizes, parts, texts or models that do not go together.</exception>
    public static Task<(SearchPlan Plan, TimeSpan Time)> PreviewAsync(SearchRequest request, Device device, IProgressSink progress, CancellationToken cancellation = default) =>
        Task.Run(() => Preview(request, Runs(request, device, progress, cancellation), progress, cancellation), cancellation);

    /// <summary>Searches, and writes the chosen model with its report, <c>search.json</c> and <c>search.html</c>.</summary>
    /// <param name="request">What is searched.</param>
    /// <param name="device">Where to compute.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early; finished runs stay, and the same request goes on behind them.</param>
    /// <returns>All that was found out.</returns>
    /// <exception cref="EspalierException">As <see cref="PreviewAsync"/>, and where no candidate could be finished.</exception>
    public static Task<SearchReport> RunAsync(SearchRequest request, Device device, IProgressSink progress, CancellationToken cancellation = default) => Task.Run(async () =>
    {
        PlanRuns runs = Runs(request, device, progress, cancellation);
        (SearchPlan plan, _) = Preview(request, runs, progress, cancellation);
        progress.Say(plan.Sentence(request.Search.Tolerance));
        var light = new ComparisonRequest { Plans = [.. plan.Candidates.Select(c => c.Light)], Seeds = [request.Seed], Out = Path.Combine(request.Out, Folder) };
        ComparisonReport compared = await new ComparisonRun(light, runs, progress).RunAsync().ConfigureAwait(false);
        EspalierException.Require(compared.Plans[0].Metrics.Count > 0, $"No candidate could be finished. {string.Join(" ", compared.Failures)}");
        SearchedArchitecture best = plan.Candidates.Single(c => c.Name == compared.Plans[0].Name);
        progress.Say($"{best.Name} is the best candidate; it is now retrained to the end.");
        string folder = Path.GetFullPath(request.Out);
        PlanFigures final = await runs.MeasuredAsync(best.Full, request.Seed, folder, compared.Dense, keep: true).ConfigureAwait(false);
        SearchReport report = SearchReport.Of(request, plan, compared, final);
        ReportJson.Save(Path.Combine(folder, "search.json"), report);
        SearchPage.Make(report).Save(Path.Combine(folder, "search.html"));
        return report;
    }, cancellation);

    private static PlanRuns Runs(SearchRequest request, Device device, IProgressSink progress, CancellationToken cancellation) =>
        new(device, progress, cancellation) { Importance = Path.Combine(Path.GetFullPath(request.Out), Folder, "importance") };

    private static (SearchPlan Plan, TimeSpan Time) Preview(SearchRequest request, PlanRuns runs, IProgressSink progress, CancellationToken cancellation)
    {
        SearchPlan plan = SearchPlan.Make(request, ModelConfig.Load(Hub.Resolve(request.Model, progress, cancellation)));
        string folder = Path.GetFullPath(request.Out);
        TimeSpan time = plan.Candidates.Select(c => Pruner.Preview(runs.Job(c.Light, request.Seed, folder)).Time).Aggregate(TimeSpan.Zero, (a, b) => a + b);
        return (plan, time + Pruner.Preview(runs.Job(plan.Candidates[0].Full, request.Seed, folder)).Time);
    }
}
