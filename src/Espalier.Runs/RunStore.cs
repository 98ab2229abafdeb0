using Espalier.Runtime;
using Microsoft.Data.Sqlite;
using Microsoft.EntityFrameworkCore;
using Npgsql;

namespace Espalier.Runs;

/// <summary>The run store on EF Core, in SQLite or PostgreSQL.</summary>
public sealed partial class RunStore : IRunStore
{
    /// <summary>How long without a sign of life a process that cannot be looked at (on another machine) is taken for alive.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromMinutes(2);

    // A batch is saved in seconds even while others write; whoever waits this long has a dead disk or server before him.
    private const int Attempts = 8, BusySeconds = 30;

    private readonly Func<RunDatabase> _open;

    private RunStore(string place, Func<RunDatabase> open) => (Place, _open) = (place, open);

    /// <inheritdoc/>
    public string Place { get; }

    /// <summary>Opens the store, making it or bringing its tables up to date where needed.</summary>
    /// <param name="location">Where.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="EspalierException">When it cannot be reached, or there is none; says why.</exception>
    public static async Task<RunStore> OpenAsync(RunLocation location, CancellationToken cancellation = default)
    {
        EspalierException.Require(!location.IsNone, $"There is no run store, for {RunLocation.Variable} is none; set it to a path or to a connection string of PostgreSQL.");
        string place = location.File ?? PlaceOf(location.Connection!);
        var store = new RunStore(place, location.File is { } file ? () => OpenSqlite(file) : () => OpenPostgres(location.Connection!));
        try
        {
            if (location.File is not null)
            {
                await StoreMigration.SqliteAsync(store._open, location.File, cancellation).ConfigureAwait(false);
            }
            else
            {
                await StoreMigration.PostgresAsync(store._open, location.Connection!, cancellation).ConfigureAwait(false);
            }
        }
        catch (Exception fault) when (IsFaultOfStore(fault))
        {
            throw new EspalierException($"The run store {place} cannot be opened ({Reason(fault)}); set {RunLocation.Variable} to another place, or to none.", fault);
        }

        return store;
    }

    /// <inheritdoc/>
    public async Task<Run> BeginAsync(NewRun run, CancellationToken cancellation = default)
    {
        string id = run.Id ?? Guid.CreateVersion7().ToString("N");
        DateTime now = DateTime.UtcNow;
        Run? begun = null;
        await WriteAsync(async db =>
        {
            Run? known = run.Id is null ? null : await db.Runs.Include(r => r.Tags).FirstOrDefaultAsync(r => r.Id == id, cancellation).ConfigureAwait(false);
            if (known is null)
            {
                known = new Run { Id = id, Command = run.Command };
                db.Runs.Add(known);
            }

            known.Command = run.Command;
            known.Title = Clean(run.Title.Length > 0 ? run.Title : known.Title);
            known.Model = Clean(run.Model);
            known.Plan = Clean(run.Plan);
            known.Words = Clean(Json.Write(run.Words));
            known.WorkingFolder = Clean(run.WorkingFolder);
            known.Version = run.Version;
            known.Machine = Clean(Json.Write(run.Machine));
            known.Seed = run.Seed;
            known.Folder = Clean(run.Folder);
            known.ResumedFrom = run.ResumedFrom.Length > 0 ? run.ResumedFrom : known.ResumedFrom;
            known.Started = known.Heartbeat = now;
            known.State = run.Queued ? RunState.Queued : RunState.Running;
            known.ProcessId = run.Queued ? 0 : Environment.ProcessId;
            known.ProcessMark = run.Queued ? "" : ProcessMark.Current;
            foreach (string tag in run.Tags.Select(Clean).Distinct(StringComparer.Ordinal).Where(t => known.Tags.All(k => k.Tag != t)))
            {
                known.Tags.Add(new RunTag { RunId = id, Tag = tag });
            }

            await db.SaveChangesAsync(cancellation).ConfigureAwait(false);
            begun = known;
        }, cancellation).ConfigureAwait(false);
        return begun!;
    }

    /// <inheritdoc/>
    public Task AppendAsync(string runId, IReadOnlyList<MetricPoint> metrics, IReadOnlyList<LogLine> lines, CancellationToken cancellation = default) =>
        WriteAsync(async db =>
        {
            db.ChangeTracker.AutoDetectChangesEnabled = false;
            db.Metrics.AddRange(metrics.Select(m => new MetricPoint
            {
                RunId = runId, Name = Clean(m.Name), Step = m.Step, Time = m.Time, Value = m.Value is { } value && double.IsFinite(value) ? value : null,
            }));
            db.Log.AddRange(lines.Select(l => new LogLine { RunId = runId, Time = l.Time, Level = l.Level, Text = Clean(l.Text) }));
            await db.SaveChangesAsync(cancellation).ConfigureAwait(false);
        }, cancellation);

    /// <inheritdoc/>
    public Task BeatAsync(string runId, double? progress = null, string? doing = null, CancellationToken cancellation = default) =>
        WriteAsync(async db =>
        {
            DateTime now = DateTime.UtcNow;
            string words = Clean(doing ?? "");
            IQueryable<Run> alive = db.Runs.Where(r => r.Id == runId && (r.State == RunState.Running || r.State == RunState.Interrupted));
            await alive.ExecuteUpdateAsync(s => s
                .SetProperty(r => r.Heartbeat, now).SetProperty(r => r.State, RunState.Running).SetProperty(r => r.Ended, (DateTime?)null)
                .SetProperty(r => r.Progress, progress).SetProperty(r => r.Doing, words), cancellation).ConfigureAwait(false);
        }, cancellation);

    /// <inheritdoc/>
    public Task UpdateAsync(string runId, Action<Run> change, CancellationToken cancellation = default) =>
        WriteAsync(async db =>
        {
            Run run = await db.Runs.FirstOrDefaultAsync(r => r.Id == runId, cancellation).ConfigureAwait(false) ?? throw Missing(runId);
            change(run);
            await db.SaveChangesAsync(cancellation).ConfigureAwait(false);
        }, cancellation);

    /// <inheritdoc/>
    public Task AddArtefactsAsync(string runId, IReadOnlyList<Artefact> artefacts, CancellationToken cancellation = default) =>
        WriteAsync(async db =>
        {
            Dictionary<string, Artefact> known = await db.Artefacts.Where(a => a.RunId == runId).ToDictionaryAsync(a => a.Path, cancellation).ConfigureAwait(false);
            foreach (Artefact artefact in artefacts.DistinctBy(a => a.Path))
            {
                if (known.TryGetValue(Clean(artefact.Path), out Artefact? old))
                {
                    (old.Name, old.Kind, old.Bytes) = (Clean(artefact.Name), artefact.Kind, artefact.Bytes);
                }
                else
                {
                    db.Artefacts.Add(new Artefact { RunId = runId, Path = Clean(artefact.Path), Name = Clean(artefact.Name), Kind = artefact.Kind, Bytes = artefact.Bytes });
                }
            }

            await db.SaveChangesAsync(cancellation).ConfigureAwait(false);
        }, cancellation);

    /// <inheritdoc/>
    public Task FinishAsync(string runId, RunEnd end, CancellationToken cancellation = default) =>
        UpdateAsync(runId, run =>
        {
            (run.State, run.ExitCode, run.Outcome, run.Error) = (end.State, end.ExitCode, Clean(end.Outcome), Clean(end.Error));
            run.Ended = run.Heartbeat = DateTime.UtcNow;
            run.Doing = "";
        }, cancellation);

    /// <inheritdoc/>
    public Task TagAsync(string runId, IReadOnlyList<string> add, IReadOnlyList<string> remove, CancellationToken cancellation = default) =>
        WriteAsync(async db =>
        {
            await db.Tags.Where(t => t.RunId == runId && remove.Contains(t.Tag)).ExecuteDeleteAsync(cancellation).ConfigureAwait(false);
            HashSet<string> known = [.. await db.Tags.Where(t => t.RunId == runId).Select(t => t.Tag).ToListAsync(cancellation).ConfigureAwait(false)];
            db.Tags.AddRange(add.Select(t => Clean(t.Trim())).Where(t => t.Length > 0 && known.Add(t)).Select(t => new RunTag { RunId = runId, Tag = t }));
            await db.SaveChangesAsync(cancellation).ConfigureAwait(false);
        }, cancellation);

    /// <inheritdoc/>
    public async Task<int> DeleteAsync(IReadOnlyList<string> runIds, CancellationToken cancellation = default)
    {
        int deleted = 0;
        await WriteAsync(async db => deleted = await db.Runs.Where(r => runIds.Contains(r.Id)).ExecuteDeleteAsync(cancellation).ConfigureAwait(false), cancellation).ConfigureAwait(false);
        return deleted;
    }

    /// <inheritdoc/>
    public async Task<IReadOnlyList<string>> MarkInterruptedAsync(CancellationToken cancellation = default)
    {
        using RunDatabase db = _open();
        List<Run> running = await db.Runs.AsNoTracking().Where(r => r.State == RunState.Running).ToListAsync(cancellation).ConfigureAwait(false);
        var marked = new List<string>();
        foreach (Run run in running.Where(IsGone))
        {
            // Only where it has not beaten since it was read: the owner knows better.
            DateTime last = run.Heartbeat;
            await WriteAsync(async writer =>
            {
                IQueryable<Run> same = writer.Runs.Where(r => r.Id == run.Id && r.State == RunState.Running && r.Heartbeat == last);
                int changed = await same.ExecuteUpdateAsync(s => s.SetProperty(r => r.State, RunState.Interrupted).SetProperty(r => r.Ended, last), cancellation).ConfigureAwait(false);
                marked.AddRange(Enumerable.Repeat(run.Id, changed));
            }, cancellation).ConfigureAwait(false);
        }

        return marked;
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    private static bool IsGone(Run run) => ProcessMark.IsAlive(run.ProcessId, run.ProcessMark) is { } alive
        ? !alive
        : DateTime.UtcNow - run.Heartbeat > Patience;

    private async Task WriteAsync(Func<RunDatabase, Task> write, CancellationToken cancellation)
    {
        for (int attempt = 1; ; attempt++)
        {
            using RunDatabase db = _open();
            try
            {
                await write(db).ConfigureAwait(false);
                return;
            }
            catch (Exception fault) when (attempt < Attempts && IsPassing(fault))
            {
                await Task.Delay(TimeSpan.FromMilliseconds(Random.Shared.Next(10, 40 << attempt)), cancellation).ConfigureAwait(false);
            }
            catch (Exception fault) when (IsFaultOfStore(fault))
            {
                throw new EspalierException($"The run store {Place} could not be written ({Reason(fault)}).", fault);
            }
        }
    }

    /// <summary>Another try can help: someone else writes (SQLite), the connection broke before anything was saved, two inserted the same tag.</summary>
    private static bool IsPassing(Exception fault) => fault switch
    {
        SqliteException { SqliteErrorCode: 5 or 6 } => true,
        PostgresException { SqlState: PostgresErrorCodes.UniqueViolation } => true,
        SqliteException { SqliteExtendedErrorCode: 1555 or 2067 } => true,
        NpgsqlException known => known.IsTransient,
        { InnerException: { } inner } => IsPassing(inner),
        _ => false,
    };

    private static bool IsFaultOfStore(Exception fault) =>
        fault is System.Data.Common.DbException or DbUpdateException or IOException or UnauthorizedAccessException or System.Net.Sockets.SocketException or TimeoutException
            or ArgumentException or InvalidOperationException or FormatException;

    private static string Reason(Exception fault)
    {
        while (fault is DbUpdateException or InvalidOperationException && fault.InnerException is { } inner)
        {
            fault = inner;
        }

        return fault.Message.Split('\n')[0].Trim().TrimEnd('.');
    }

    private static EspalierException Missing(string runId) => new($"There is no run {runId} in the store.");

    // PostgreSQL has no NUL in text.
    private static string Clean(string text) => text.Replace("\0", "", StringComparison.Ordinal);

    private static string PlaceOf(string connection)
    {
        try
        {
            return PostgresAddress.Describe(connection);
        }
        catch (ArgumentException fault)
        {
            throw new EspalierException($"The connection string in {RunLocation.Variable} is not one of PostgreSQL ({fault.Message.Split('\n')[0].TrimEnd('.')}); write Host=…;Database=…;Username=…;Password=…, or postgresql://user:password@host/database.", fault);
        }
    }

    internal static string ConnectionOf(string file) => new SqliteConnectionStringBuilder { DataSource = file, DefaultTimeout = BusySeconds, ForeignKeys = true }.ConnectionString;

    internal static SqliteRunDatabase OpenSqlite(string file) => new(new DbContextOptionsBuilder<SqliteRunDatabase>()
        .UseSqlite(ConnectionOf(file))
        .AddInterceptors(SqliteManners.Instance).Options);

    internal static PostgresRunDatabase OpenPostgres(string connection) => new(new DbContextOptionsBuilder<PostgresRunDatabase>()
        .UseNpgsql(connection).Options);
}
