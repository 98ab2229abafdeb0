using System.Text.Json;
using Espalier.Recipes;
using Espalier.Reporting;
using Espalier.Runs;
using Espalier.Runtime;
using Espalier.Studio.Runs;

namespace Espalier.Studio.Systems;

/// <summary>Reproductions that were run on this machine, as the run store has them.</summary>
internal sealed class Reproductions(RunShelf shelf)
{
    /// <summary>What a run of <c>reproduce</c> found; null where it is none, or another version's.</summary>
    public static ReproductionReport? Of(Run run)
    {
        if (run.Command != "reproduce" || run.Outcome.Length == 0)
        {
            return null;
        }

        try
        {
            ReproductionReport? report = JsonSerializer.Deserialize<ReproductionReport>(run.Outcome, ReportJson.Options);
            return report is { System: not null, Experiments: not null, Checks: not null, Seeds: not null, Machine: not null } ? report : null;
        }
        catch (JsonException)
        {
            return null;
        }
    }

    /// <summary>The newest finished reproduction of a system; null where none was run, or the store cannot be read.</summary>
    public async Task<(Run Run, ReproductionReport Report)?> LatestAsync(string slug)
    {
        try
        {
            RunPage page = await (await shelf.StoreAsync().ConfigureAwait(false)).ListAsync(new RunFilter { Commands = ["reproduce"], States = [RunState.Finished], Text = slug, Take = 50 }).ConfigureAwait(false);
            return page.Runs.Select(r => (Run: r, Report: Of(r))).Where(r => slug.Equals(r.Report?.System, StringComparison.OrdinalIgnoreCase)).Select(r => ((Run, ReproductionReport)?)(r.Run, r.Report!)).FirstOrDefault();
        }
        catch (EspalierException)
        {
            return null;
        }
    }
}
