using Espalier.Runtime;

namespace Espalier.Training.Jobs;

/// <summary>How trainings are done in processes of their own.</summary>
public sealed record WorkerOptions
{
    /// <summary>The work folder, which workers of other machines may share; made when there is none.</summary>
    public required string Folder { get; init; }

    /// <summary>The most processes that are started on this machine. Default 2.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Workers
    {
        get;
        init
        {
            EspalierException.Require(value >= 1, $"{value} workers are not possible; give 1 or more, or none to train in this process.");
            field = value;
        }
    } = 2;

    /// <summary>Threads of each training, here and elsewhere. Default the cores of this machine divided by <see cref="Workers"/>, at least 1.</summary>
    public int? Threads { get; init; }

    /// <summary>The most memory in bytes that the processes of this machine may take together; null (default) sets no limit.</summary>
    public long? MemoryLimit { get; init; }

    /// <summary>The word for the device that workers compute on (<c>--device</c>). Default <c>auto</c>.</summary>
    public string Device { get; init; } = "auto";

    /// <summary>How the tool is started; default as the one that this process belongs to.</summary>
    public IReadOnlyList<string> Tool { get; init; } = OwnTool.Words;

    /// <summary>How long a claim that is not renewed is left alone. Default 60 s.</summary>
    public TimeSpan Patience { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>Where it is told that workers end before their time.</summary>
    public IProgressSink Progress { get; init; } = SilentProgress.Instance;

    /// <summary><see cref="Threads"/> as a number.</summary>
    public int ThreadsEach => Threads ?? Math.Max(1, Environment.ProcessorCount / Workers);
}
