using System.Globalization;
using System.Text.Json;
using Espalier.Catalogue;
using Espalier.Checkpoints;
using Espalier.Runs;
using Espalier.Studio.Api;
using Espalier.Studio.Runs;
using Espalier.Studio.Systems;

namespace Espalier.Studio.Digest;

/// <summary>A best result that was beaten.</summary>
/// <param name="System">The criterion that it was made with.</param>
/// <param name="Run">The run.</param>
/// <param name="Perplexity">Its perplexity.</param>
/// <param name="Before">The best before; null where there was none.</param>
internal sealed record BestResult(string System, Run Run, double Perplexity, double? Before);

/// <summary>What is new.</summary>
/// <param name="Finished">Runs that have ended.</param>
/// <param name="Best">New best results for each system, on the same model and the same sparsity.</param>
/// <param name="Systems">Systems that can be run now and could not before.</param>
internal sealed record News(IReadOnlyList<Run> Finished, IReadOnlyList<BestResult> Best, IReadOnlyList<SystemCard> Systems)
{
    public bool IsEmpty => Finished.Count == 0 && Systems.Count == 0;

    public string Subject => string.Join(", ", new[]
    {
        Finished.Count switch { 0 => "", 1 => $"{RunCard.NameOf(Finished[0])} has ended", int n => $"{n} runs have ended" },
        Best.Count switch { 0 => "", 1 => "a new best result", int n => $"{n} new best results" },
        Systems.Count switch { 0 => "", 1 => $"{Systems[0].Slug} can be run", int n => $"{n} more systems can be run" },
    }.Where(s => s.Length > 0));
}

/// <summary>Finds out what is new since a moment.</summary>
internal sealed class NewsDesk(StudioOptions options, RunShelf shelf, SystemLibrary library, TimeProvider clock)
{
    private readonly string _seen = Path.Combine(options.Home, "studio", "systems.json");

    /// <summary>What came after one moment, up to another.</summary>
    public async Task<News> SinceAsync(DateTimeOffset since, DateTimeOffset until, CancellationToken cancellation)
    {
        IRunStore store = await shelf.StoreAsync(cancellation).ConfigureAwait(false);
        RunPage page = await store.ListAsync(new RunFilter { States = [RunState.Finished, RunState.Failed], Sort = RunSort.Ended, Take = 1_000 }, cancellation).ConfigureAwait(false);
        Run[] ended = [.. page.Runs.Where(r => r.Ended is not null && Utc(r.Ended.Value) <= until)];
        Run[] fresh = [.. ended.Where(r => Utc(r.Ended!.Value) > since).OrderBy(r => r.Ended)];
        var best = new List<BestResult>();
        foreach (var group in ended.Select(r => (Run: r, Figures: RunFigures.Of(r))).Where(r => r.Figures.Perplexity is not null)
            .GroupBy(r => (System: System(r.Figures), r.Run.Model, Sparsity: Math.Round(r.Figures.Sparsity ?? 0, 2))))
        {
            double? before = group.Where(g => Utc(g.Run.Ended!.Value) <= since).Min(g => g.Figures.Perplexity);
            var now = group.Where(g => Utc(g.Run.Ended!.Value) > since).OrderBy(g => g.Figures.Perplexity).FirstOrDefault();
            if (now.Run is not null && !(before <= now.Figures.Perplexity))
            {
                best.Add(new BestResult(group.Key.System, now.Run, now.Figures.Perplexity!.Value, before));
            }
        }

        Dictionary<string, DateTimeOffset> seen = Seen();
        return new News(fresh, best, [.. library.Cards.Where(c => c.State is MethodState.Built && seen.TryGetValue(c.Slug, out DateTimeOffset first) && first > since && first <= until)]);
    }

    // "wanda(use_variant=false)" -> "wanda".
    private static string System(RunFigures figures) => figures.Parts.GetValueOrDefault("criterion", "").Split('(')[0];

    private static DateTimeOffset Utc(DateTime time) => new(DateTime.SpecifyKind(time, DateTimeKind.Utc));

    /// <summary>When each system was first seen here; what a first start finds is not news.</summary>
    private Dictionary<string, DateTimeOffset> Seen()
    {
        bool first = !File.Exists(_seen);
        Dictionary<string, DateTimeOffset> seen = first ? [] : JsonSerializer.Deserialize<Dictionary<string, DateTimeOffset>>(File.ReadAllText(_seen)) ?? [];
        SystemCard[] fresh = [.. library.Cards.Where(c => c.State is MethodState.Built && !seen.ContainsKey(c.Slug))];
        foreach (SystemCard card in fresh)
        {
            seen[card.Slug] = first ? DateTimeOffset.UnixEpoch : clock.GetUtcNow();
        }

        if (fresh.Length > 0)
        {
            Directory.CreateDirectory(Path.GetDirectoryName(_seen)!);
            AtomicFile.WriteText(_seen, JsonSerializer.Serialize(seen));
        }

        return seen;
    }

    /// <summary>A figure as a mail shows it.</summary>
    public static string Figure(double value) => value.ToString("0.##", CultureInfo.InvariantCulture);
}
