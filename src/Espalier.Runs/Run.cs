namespace Espalier.Runs;

/// <summary>One run of a command that works on a model.</summary>
public sealed class Run
{
    /// <summary>A version 7 UUID as 32 hexadecimal digits: runs sorted by it are sorted by their beginning.</summary>
    public required string Id { get; init; }

    /// <summary>The command's name: <c>prune</c>, <c>train</c>, …</summary>
    public required string Command { get; set; }

    /// <summary>What a person calls it.</summary>
    public string Title { get; set; } = "";

    /// <summary>The model or plan that the command was given; empty where it takes none.</summary>
    public string Model { get; set; } = "";

    /// <summary>The plan as YAML, or empty.</summary>
    public string Plan { get; set; } = "";

    /// <summary>The words of the command line behind <c>espalier</c>, as a JSON array.</summary>
    public string Words { get; set; } = "[]";

    /// <summary>Where the command was given; relative paths of <see cref="Words"/> start there.</summary>
    public string WorkingFolder { get; set; } = "";

    /// <summary>Espalier's version.</summary>
    public string Version { get; set; } = "";

    /// <summary>Processor, cores, memory, system and versions, as a JSON object.</summary>
    public string Machine { get; set; } = "{}";

    /// <summary>The seed of the command; null where it takes none or several.</summary>
    public long? Seed { get; set; }

    /// <summary>How far it is.</summary>
    public RunState State { get; set; }

    /// <summary>When it was asked for or began (UTC).</summary>
    public DateTime Started { get; set; }

    /// <summary>When it ended (UTC); of an interrupted run the last sign of life.</summary>
    public DateTime? Ended { get; set; }

    /// <summary>The process at work; 0 for a queued run.</summary>
    public int ProcessId { get; set; }

    /// <summary>What tells this process from all others with its number: host, boot, process space and start (<see cref="ProcessMark"/>).</summary>
    public string ProcessMark { get; set; } = "";

    /// <summary>The last sign of life (UTC).</summary>
    public DateTime Heartbeat { get; set; }

    /// <summary>The exit code of the command; null while it is at work and where it was killed.</summary>
    public int? ExitCode { get; set; }

    /// <summary>The result of the command as JSON (what <c>--json</c> shows as <c>result</c>), or empty.</summary>
    public string Outcome { get; set; } = "";

    /// <summary>The sentence of the error that ended it, or empty.</summary>
    public string Error { get; set; } = "";

    /// <summary>The output folder, in full, or empty.</summary>
    public string Folder { get; set; } = "";

    /// <summary>The run that this one goes on with, or empty.</summary>
    public string ResumedFrom { get; set; } = "";

    /// <summary>How much is done of the work that is under way, between 0 and 1; null where that is not known.</summary>
    public double? Progress { get; set; }

    /// <summary>What is being done now, or empty.</summary>
    public string Doing { get; set; } = "";

    /// <summary>Its tags.</summary>
    public List<RunTag> Tags { get; init; } = [];

    /// <summary>The last eight digits: what people type and tables show.</summary>
    public string ShortId => Id.Length > 8 ? Id[^8..] : Id;

    /// <summary>From beginning to end, or to now.</summary>
    public TimeSpan Duration => (Ended ?? (State is RunState.Queued ? Started : DateTime.UtcNow)) - Started;
}

/// <summary>A word that groups runs.</summary>
public sealed class RunTag
{
    /// <summary>The letters of the longest tag.</summary>
    public const int Longest = 40;

    /// <summary>The run.</summary>
    public required string RunId { get; init; }

    /// <summary>The word.</summary>
    public required string Tag { get; init; }
}

/// <summary>A figure at one moment of a run.</summary>
public sealed class MetricPoint
{
    /// <summary>Given by the store; grows, so that a reader can ask for what came since.</summary>
    public long Id { get; init; }

    /// <summary>The run; the store fills it in.</summary>
    public string RunId { get; set; } = "";

    /// <summary>The figure's name ("loss").</summary>
    public required string Name { get; init; }

    /// <summary>The step it belongs to.</summary>
    public long Step { get; init; }

    /// <summary>When it was published (UTC).</summary>
    public DateTime Time { get; init; }

    /// <summary>The value; null where it was no finite number.</summary>
    public double? Value { get; init; }
}

/// <summary>A file that a run has made.</summary>
public sealed class Artefact
{
    /// <summary>The run; the store fills it in.</summary>
    public string RunId { get; set; } = "";

    /// <summary>The full path.</summary>
    public required string Path { get; init; }

    /// <summary>The path within the run's folder.</summary>
    public string Name { get; set; } = "";

    /// <summary>What it is: <c>report</c>, <c>checkpoint</c>, <c>metrics</c>, <c>adapter</c>, <c>model</c> or <c>file</c>.</summary>
    public string Kind { get; set; } = "file";

    /// <summary>Its size when it was recorded.</summary>
    public long Bytes { get; set; }
}

/// <summary>A line that a run has said.</summary>
public sealed class LogLine
{
    /// <summary>Given by the store; grows.</summary>
    public long Id { get; init; }

    /// <summary>The run; the store fills it in.</summary>
    public string RunId { get; set; } = "";

    /// <summary>When (UTC).</summary>
    public DateTime Time { get; init; }

    /// <summary><c>say</c>, <c>warn</c> or <c>error</c>.</summary>
    public string Level { get; init; } = "say";

    /// <summary>The line.</summary>
    public required string Text { get; init; }
}
