using System.Globalization;
using Espalier.Runtime;
using Microsoft.EntityFrameworkCore;

namespace Espalier.Runs;

public sealed partial class RunStore
{
    private static readonly DateTime Never = new(9999, 1, 1, 0, 0, 0, DateTimeKind.Utc);

    /// <inheritdoc/>
    public async Task<RunPage> ListAsync(RunFilter filter, CancellationToken cancellation = default)
    {
        await MarkInterruptedAsync(cancellation).ConfigureAwait(false);
        using RunDatabase db = _open();
        IQueryable<Run> runs = Filtered(db.Runs.AsNoTracking(), filter);
        int total = await runs.CountAsync(cancellation).ConfigureAwait(false);
        List<Run> page = await Sorted(runs, filter).Skip(filter.Skip).Take(filter.Take).Include(r => r.Tags.OrderBy(t => t.Tag)).AsSplitQuery().ToListAsync(cancellation).ConfigureAwait(false);
        return new RunPage(page, total);
    }

    /// <inheritdoc/>
    public async Task<RunDetails?> GetAsync(string runId, CancellationToken cancellation = default)
    {
        await MarkInterruptedAsync(cancellation).ConfigureAwait(false);
        using RunDatabase db = _open();
        Run? run = await db.Runs.AsNoTracking().Include(r => r.Tags.OrderBy(t => t.Tag)).FirstOrDefaultAsync(r => r.Id == runId, cancellation).ConfigureAwait(false);
        if (run is null)
        {
            return null;
        }

        var summaries = await db.Metrics.AsNoTracking().Where(m => m.RunId == runId).GroupBy(m => m.Name)
            .Select(g => new { Name = g.Key, Count = g.Count(), Last = g.Max(m => m.Id), Least = g.Min(m => m.Value), Greatest = g.Max(m => m.Value) })
            .ToListAsync(cancellation).ConfigureAwait(false);
        List<long> last = [.. summaries.Select(s => s.Last)];
        Dictionary<string, MetricPoint> lastPoints = await db.Metrics.AsNoTracking().Where(m => last.Contains(m.Id)).ToDictionaryAsync(m => m.Name, cancellation).ConfigureAwait(false);
        List<Artefact> artefacts = await db.Artefacts.AsNoTracking().Where(a => a.RunId == runId).ToListAsync(cancellation).ConfigureAwait(false);
        return new RunDetails(
            run,
            [.. summaries.OrderBy(s => s.Name, StringComparer.Ordinal).Where(s => lastPoints.ContainsKey(s.Name))
                .Select(s => new MetricSummary(s.Name, s.Count, lastPoints[s.Name].Value, lastPoints[s.Name].Step, s.Least, s.Greatest))],
            [.. artefacts.OrderBy(a => a.Name, StringComparer.Ordinal)]);
    }

    /// <inheritdoc/>
    public async Task<string> ResolveAsync(string word, CancellationToken cancellation = default)
    {
        using RunDatabase db = _open();
        word = word.Trim().ToLowerInvariant().Replace("-", "", StringComparison.Ordinal);
        if (word == "last")
        {
            string? newest = await db.Runs.OrderByDescending(r => r.Started).ThenByDescending(r => r.Id).Select(r => r.Id).FirstOrDefaultAsync(cancellation).ConfigureAwait(false);
            return newest ?? throw new EspalierException("The run store is empty; runs are recorded from now on.");
        }

        EspalierException.Require(word.Length > 0 && word.All(char.IsAsciiHexDigit), $"'{word}' is no run; give an id of `espalier runs list`, or last.");
        List<string> found = await db.Runs.Where(r => r.Id.StartsWith(word) || r.Id.EndsWith(word)).OrderBy(r => r.Id).Select(r => r.Id).Take(6).ToListAsync(cancellation).ConfigureAwait(false);
        EspalierException.Require(found.Count > 0, $"There is no run '{word}'; `espalier runs list` shows them.");
        EspalierException.Require(found.Count == 1, $"'{word}' may be any of {string.Join(", ", found.Take(5).Select(f => f[^8..]))}{(found.Count > 5 ? ", …" : "")}; give more of the id.");
        return found[0];
    }

    /// <inheritdoc/>
    public async Task<IReadOnlyList<MetricPoint>> MetricsAsync(string runId, MetricQuery query, CancellationToken cancellation = default)
    {
        using RunDatabase db = _open();
        IQueryable<MetricPoint> points = db.Metrics.AsNoTracking().Where(m => m.RunId == runId && m.Id > query.AfterId);
        points = query.Names.Count > 0 ? points.Where(m => query.Names.Contains(m.Name)) : points;
        points = query.SinceStep is { } step ? points.Where(m => m.Step >= step) : points;
        return await points.OrderBy(m => m.Id).Take(query.Take).ToListAsync(cancellation).ConfigureAwait(false);
    }

    /// <inheritdoc/>
    public async Task<IReadOnlyList<LogLine>> LogAsync(string runId, long afterId = 0, int take = 10_000, CancellationToken cancellation = default)
    {
        using RunDatabase db = _open();
        return await db.Log.AsNoTracking().Where(l => l.RunId == runId && l.Id > afterId).OrderBy(l => l.Id).Take(take).ToListAsync(cancellation).ConfigureAwait(false);
    }

    /// <inheritdoc/>
    public async Task<RunComparison> CompareAsync(IReadOnlyList<string> runIds, CancellationToken cancellation = default)
    {
        var runs = new List<RunDetails>();
        foreach (string id in runIds)
        {
            runs.Add(await GetAsync(id, cancellation).ConfigureAwait(false) ?? throw Missing(id));
        }

        IReadOnlyList<Compared> settings = SideBySide([.. runs.Select(r => Settings(r.Run))]);
        IReadOnlyList<Compared> outcomes = SideBySide([.. runs.Select(r => OutcomeFigures.Of(r.Run.Outcome).ToDictionary(f => f.Key, f => (string?)f.Value))]);
        var metrics = runs.SelectMany(r => r.Metrics).Select(m => m.Name).Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal)
            .Select(name => new ComparedMetric(name, [.. runs.Select(r => r.Metrics.FirstOrDefault(m => m.Name == name))]));
        return new RunComparison(runs, settings, [.. metrics]) { Outcomes = outcomes };
    }

    private static IReadOnlyList<Compared> SideBySide(IReadOnlyList<IReadOnlyDictionary<string, string?>> all) =>
        [.. all.SelectMany(s => s.Keys).Distinct(StringComparer.Ordinal).Select(name => new Compared(name, [.. all.Select(s => s.GetValueOrDefault(name))]))];

    /// <inheritdoc/>
    public async Task<IReadOnlyDictionary<string, int>> TagsAsync(CancellationToken cancellation = default)
    {
        using RunDatabase db = _open();
        var counts = await db.Tags.GroupBy(t => t.Tag).Select(g => new { g.Key, Count = g.Count() }).ToListAsync(cancellation).ConfigureAwait(false);
        return new SortedDictionary<string, int>(counts.ToDictionary(c => c.Key, c => c.Count), StringComparer.Ordinal);
    }

    private static IQueryable<Run> Filtered(IQueryable<Run> runs, RunFilter filter)
    {
        runs = filter.Commands.Count > 0 ? runs.Where(r => filter.Commands.Contains(r.Command)) : runs;
        runs = filter.States.Count > 0 ? runs.Where(r => filter.States.Contains(r.State)) : runs;
        runs = filter.Tags.Aggregate(runs, (some, tag) => some.Where(r => r.Tags.Any(t => t.Tag == tag)));
        runs = filter.Since is { } since ? runs.Where(r => r.Started >= since) : runs;
        runs = filter.Until is { } until ? runs.Where(r => r.Started < until) : runs;
        if (filter.Text is { Length: > 0 } text)
        {
            string lower = text.ToLowerInvariant();
            runs = runs.Where(r => r.Title.ToLower().Contains(lower) || r.Model.ToLower().Contains(lower) || r.Command.ToLower().Contains(lower)
                || r.Folder.ToLower().Contains(lower) || r.Plan.ToLower().Contains(lower) || r.Id.Contains(lower));
        }

        return runs;
    }

    private static IQueryable<Run> Sorted(IQueryable<Run> runs, RunFilter filter)
    {
        bool down = filter.Descending;
        IOrderedQueryable<Run> sorted = filter.Sort switch
        {
            RunSort.Ended => By(runs, r => r.Ended ?? Never, down),
            RunSort.Command => By(runs, r => r.Command, down),
            RunSort.Model => By(runs, r => r.Model, down),
            RunSort.Title => By(runs, r => r.Title, down),
            RunSort.State => By(runs, r => r.State, down),
            _ => By(runs, r => r.Started, down),
        };
        return sorted.ThenByDescending(r => r.Started).ThenByDescending(r => r.Id);
    }

    private static IOrderedQueryable<Run> By<TKey>(IQueryable<Run> runs, System.Linq.Expressions.Expression<Func<Run, TKey>> key, bool down) =>
        down ? runs.OrderByDescending(key) : runs.OrderBy(key);

    private static Dictionary<string, string?> Settings(Run run)
    {
        var settings = new Dictionary<string, string?>(StringComparer.Ordinal)
        {
            ["command"] = run.Command,
            ["model"] = run.Model,
            ["seed"] = run.Seed?.ToString(CultureInfo.InvariantCulture),
            ["version"] = run.Version,
        };
        if (run.Plan.Length > 0)
        {
            try
            {
                Flatten(PlanFile.Parse(run.Plan, "the plan of the run").Values, "plan.");
            }
            catch (EspalierException)
            {
                settings["plan"] = run.Plan;
            }
        }

        return settings;

        void Flatten(IReadOnlyDictionary<string, object?> values, string path)
        {
            foreach ((string name, object? value) in values)
            {
                switch (value)
                {
                    case IReadOnlyDictionary<string, object?> inner:
                        Flatten(inner, $"{path}{name}.");
                        break;
                    case string text:
                        settings[path + name] = text;
                        break;
                    default:
                        settings[path + name] = value is null ? null : Json.Write(value);
                        break;
                }
            }
        }
    }
}
