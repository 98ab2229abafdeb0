namespace Espalier.Runs;

/// <summary>By what a list of runs is sorted.</summary>
public enum RunSort
{
    /// <summary>By beginning.</summary>
    Started,

    /// <summary>By end; runs at work come last.</summary>
    Ended,

    /// <summary>By command.</summary>
    Command,

    /// <summary>By model.</summary>
    Model,

    /// <summary>By title.</summary>
    Title,

    /// <summary>By state.</summary>
    State,
}

/// <summary>Which runs, in which order; what is left out does not filter.</summary>
public sealed record RunFilter
{
    /// <summary>Only these commands.</summary>
    public IReadOnlyList<string> Commands { get; init; } = [];

    /// <summary>Only these states.</summary>
    public IReadOnlyList<RunState> States { get; init; } = [];

    /// <summary>Only runs that have all these tags.</summary>
    public IReadOnlyList<string> Tags { get; init; } = [];

    /// <summary>Only runs whose title, model, command, folder or plan has this text, whatever the case.</summary>
    public string? Text { get; init; }

    /// <summary>Only runs that began at this time or later (UTC).</summary>
    public DateTime? Since { get; init; }

    /// <summary>Only runs that began before this time (UTC).</summary>
    public DateTime? Until { get; init; }

    /// <summary>The order; runs that are equal in it are sorted by beginning.</summary>
    public RunSort Sort { get; init; } = RunSort.Started;

    /// <summary>The other way round; newest first by default.</summary>
    public bool Descending { get; init; } = true;

    /// <summary>How many to pass over.</summary>
    public int Skip { get; init; }

    /// <summary>How many at most.</summary>
    public int Take { get; init; } = 50;
}

/// <summary>Some of the runs that a filter lets through.</summary>
/// <param name="Runs">Them, with their tags.</param>
/// <param name="Total">How many the filter lets through in all.</param>
public sealed record RunPage(IReadOnlyList<Run> Runs, int Total);

/// <summary>A figure of a run in short.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Count">How many points it has.</param>
/// <param name="Last">The value of the last point; null where that was no finite number.</param>
/// <param name="LastStep">The step of the last point.</param>
/// <param name="Least">The least value.</param>
/// <param name="Greatest">The greatest value.</param>
public sealed record MetricSummary(string Name, int Count, double? Last, long LastStep, double? Least, double? Greatest);

/// <summary>A run with what belongs to it.</summary>
/// <param name="Run">The run, with its tags.</param>
/// <param name="Metrics">Its figures in short, by name.</param>
/// <param name="Artefacts">The files that it has made, by name.</param>
public sealed record RunDetails(Run Run, IReadOnlyList<MetricSummary> Metrics, IReadOnlyList<Artefact> Artefacts);

/// <summary>Which points of a run.</summary>
public sealed record MetricQuery
{
    /// <summary>Only these figures; none stands for all.</summary>
    public IReadOnlyList<string> Names { get; init; } = [];

    /// <summary>Only from this step on.</summary>
    public long? SinceStep { get; init; }

    /// <summary>Only points with a greater <see cref="MetricPoint.Id"/>: what came since one looked last.</summary>
    public long AfterId { get; init; }

    /// <summary>How many at most, the earliest first.</summary>
    public int Take { get; init; } = 100_000;
}

/// <summary>Something in which compared runs may differ.</summary>
/// <param name="Name">What it is: <c>command</c>, <c>seed</c>, a path within the plan, or the name of a figure.</param>
/// <param name="Values">What each run has, in the order of the runs; null where it has none.</param>
public sealed record Compared(string Name, IReadOnlyList<string?> Values)
{
    /// <summary>Not all runs have the same.</summary>
    public bool Differs => Values.Distinct(StringComparer.Ordinal).Skip(1).Any();
}

/// <summary>Runs side by side.</summary>
/// <param name="Runs">The runs, in the order asked for.</param>
/// <param name="Settings">Command, model, seed, version and every value of the plans.</param>
/// <param name="Metrics">The last value of each figure, in the order of the runs.</param>
public sealed record RunComparison(IReadOnlyList<RunDetails> Runs, IReadOnlyList<Compared> Settings, IReadOnlyList<ComparedMetric> Metrics)
{
    /// <summary>The figures and words of the results (<see cref="OutcomeFigures"/>).</summary>
    public IReadOnlyList<Compared> Outcomes { get; init; } = [];
}

/// <summary>A figure side by side.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Values">What each run has; null where it has none.</param>
public sealed record ComparedMetric(string Name, IReadOnlyList<MetricSummary?> Values);

/// <summary>What a run is begun with.</summary>
public sealed record NewRun
{
    /// <summary>A queued run that begins now; null makes a new one.</summary>
    public string? Id { get; init; }

    /// <inheritdoc cref="Run.Command"/>
    public required string Command { get; init; }

    /// <inheritdoc cref="Run.Title"/>
    public string Title { get; init; } = "";

    /// <inheritdoc cref="Run.Model"/>
    public string Model { get; init; } = "";

    /// <inheritdoc cref="Run.Plan"/>
    public string Plan { get; init; } = "";

    /// <inheritdoc cref="Run.Words"/>
    public IReadOnlyList<string> Words { get; init; } = [];

    /// <inheritdoc cref="Run.WorkingFolder"/>
    public string WorkingFolder { get; init; } = "";

    /// <inheritdoc cref="Run.Version"/>
    public string Version { get; init; } = "";

    /// <inheritdoc cref="Run.Machine"/>
    public IReadOnlyDictionary<string, string> Machine { get; init; } = new Dictionary<string, string>();

    /// <inheritdoc cref="Run.Seed"/>
    public long? Seed { get; init; }

    /// <inheritdoc cref="Run.Folder"/>
    public string Folder { get; init; } = "";

    /// <inheritdoc cref="Run.ResumedFrom"/>
    public string ResumedFrom { get; init; } = "";

    /// <inheritdoc cref="Run.Tags"/>
    public IReadOnlyList<string> Tags { get; init; } = [];

    /// <summary>Only asks for it: the run is queued and no process owns it; the one that takes it up begins it with its <see cref="Id"/>.</summary>
    public bool Queued { get; init; }
}

/// <summary>How a run ended.</summary>
/// <param name="State">Finished, failed or interrupted.</param>
public sealed record RunEnd(RunState State)
{
    /// <inheritdoc cref="Run.ExitCode"/>
    public int? ExitCode { get; init; }

    /// <inheritdoc cref="Run.Outcome"/>
    public string Outcome { get; init; } = "";

    /// <inheritdoc cref="Run.Error"/>
    public string Error { get; init; } = "";
}
