namespace Espalier.Runs;

/// <summary>Where runs are kept. Several processes may write and read at once.</summary>
/// <remarks>Every call is one transaction of its own; instances are safe to use from several threads.</remarks>
public interface IRunStore : IAsyncDisposable
{
    /// <summary>Where it is, for a person: a path, or host and database without the password.</summary>
    string Place { get; }

    /// <summary>Begins a run owned by this process, takes up a queued one, or queues one.</summary>
    Task<Run> BeginAsync(NewRun run, CancellationToken cancellation = default);

    /// <summary>Adds figures and lines to a run, all or nothing.</summary>
    Task AppendAsync(string runId, IReadOnlyList<MetricPoint> metrics, IReadOnlyList<LogLine> lines, CancellationToken cancellation = default);

    /// <summary>A sign of life with how far the work is; a run that was held for interrupted is running again.</summary>
    Task BeatAsync(string runId, double? progress = null, string? doing = null, CancellationToken cancellation = default);

    /// <summary>Changes what is known of a run (title, plan, folder, seed, …).</summary>
    Task UpdateAsync(string runId, Action<Run> change, CancellationToken cancellation = default);

    /// <summary>Records files of a run; a path that is known already is brought up to date.</summary>
    Task AddArtefactsAsync(string runId, IReadOnlyList<Artefact> artefacts, CancellationToken cancellation = default);

    /// <summary>Ends a run.</summary>
    Task FinishAsync(string runId, RunEnd end, CancellationToken cancellation = default);

    /// <summary>Gives a run tags and takes some away.</summary>
    Task TagAsync(string runId, IReadOnlyList<string> add, IReadOnlyList<string> remove, CancellationToken cancellation = default);

    /// <summary>Deletes runs with all that the store keeps of them; their files stay.</summary>
    /// <returns>How many there were.</returns>
    Task<int> DeleteAsync(IReadOnlyList<string> runIds, CancellationToken cancellation = default);

    /// <summary>Marks as interrupted what is said to run while its process is gone; listing and getting do it too.</summary>
    /// <returns>The runs that were marked.</returns>
    Task<IReadOnlyList<string>> MarkInterruptedAsync(CancellationToken cancellation = default);

    /// <summary>The runs that a filter lets through.</summary>
    Task<RunPage> ListAsync(RunFilter filter, CancellationToken cancellation = default);

    /// <summary>One run, or null.</summary>
    Task<RunDetails?> GetAsync(string runId, CancellationToken cancellation = default);

    /// <summary>The id that a person means: a whole id, its unmistakable beginning or end, or <c>last</c>.</summary>
    /// <exception cref="Runtime.EspalierException">When no run or several are meant.</exception>
    Task<string> ResolveAsync(string word, CancellationToken cancellation = default);

    /// <summary>Figures over time, in the order they were published.</summary>
    Task<IReadOnlyList<MetricPoint>> MetricsAsync(string runId, MetricQuery query, CancellationToken cancellation = default);

    /// <summary>What a run has said, in order.</summary>
    Task<IReadOnlyList<LogLine>> LogAsync(string runId, long afterId = 0, int take = 10_000, CancellationToken cancellation = default);

    /// <summary>Runs side by side.</summary>
    Task<RunComparison> CompareAsync(IReadOnlyList<string> runIds, CancellationToken cancellation = default);

    /// <summary>Every tag in use with the number of runs that have it.</summary>
    Task<IReadOnlyDictionary<string, int>> TagsAsync(CancellationToken cancellation = default);
}
