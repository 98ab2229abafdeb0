using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training.Jobs;

/// <summary>
/// Trains in processes of their own: writes every job into a work folder, starts workers (<c>espalier work</c>) on this machine and takes what they,
/// or workers of other machines, have made. What is done in the folder is not done again. A job whose worker is gone goes to another.
/// </summary>
public sealed class WorkerCrew : ITrainingCrew, IDisposable
{
    private const int OfferedAtOnce = 64, SettledAfter = 3;

    private static readonly TimeSpan Look = TimeSpan.FromMilliseconds(100);

    private readonly WorkerOptions _options;
    private readonly WorkFolder _work;
    private readonly WorkerProcesses _processes;
    private readonly FileStream _hold;
    private readonly HashSet<string> _taken = new(StringComparer.Ordinal);
    private readonly Dictionary<Data.ImageTensors, string> _images = [];
    private long _peak;
    private bool _settled;

    /// <summary>Prepares the folder; workers are started when there is work.</summary>
    /// <param name="options">The folder, and how many workers.</param>
    /// <exception cref="EspalierException">When the folder cannot be written, or another run uses it.</exception>
    public WorkerCrew(WorkerOptions options)
    {
        _options = options;
        _work = WorkFolder.Create(options.Folder, options.Patience);
        _processes = new WorkerProcesses(options);
        try
        {
            _hold = new FileStream(Path.Combine(options.Folder, "run.lock"), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (IOException fault)
        {
            throw new EspalierException($"{options.Folder} is in use by another run; name another --work-folder, or wait for its end.", fault);
        }

        Withdraw(claim => JobClaim.IsAlive(claim, _work));
    }

    /// <summary>Process numbers of the workers that run on this machine.</summary>
    public IReadOnlyList<int> Workers => _processes.Ids;

    /// <summary>Whether a folder holds jobs of a run that did not end.</summary>
    /// <param name="folder">The folder, which need not exist.</param>
    public static bool HasJobs(string folder) => WorkFolder.HasJobs(folder);

    /// <inheritdoc/>
    /// <remarks>At most 64 jobs wait at once. Without <paramref name="states"/> a job's files go when its net has been taken.</remarks>
    public IEnumerable<VisionModel> Train(IEnumerable<TrainingJob> jobs, TrainingStates? states, IProgressSink progress, CancellationToken cancellation = default)
    {
        using IProgressTask task = progress.Begin("training in workers", 0, "step");
        using IEnumerator<TrainingJob> next = jobs.GetEnumerator();
        var open = new Queue<Offered>();
        bool more = true;
        while (true)
        {
            cancellation.ThrowIfCancellationRequested();
            if (more && open.Count < OfferedAtOnce && (more = next.MoveNext()))
            {
                open.Enqueue(Offer(next.Current));
            }
            else if (open.Count == 0)
            {
                yield break;
            }

            Watch(open, task);
            if (open.TryPeek(out Offered? first) && first.Folder.IsDone)
            {
                yield return Take(open.Dequeue(), keep: states is not null);
            }
            else if (!more || open.Count == OfferedAtOnce)
            {
                cancellation.WaitHandle.WaitOne(Look);
            }
        }
    }

    /// <summary>Removes jobs, results and images from the folder, when the run that needed them is over.</summary>
    public void Clear() => _work.Clear();

    /// <summary>Ends the workers of this machine, and takes jobs back that are not done; workers save what they are at.</summary>
    public void Dispose()
    {
        _processes.Dispose();
        if (_hold.CanWrite)
        {
            Withdraw();
        }

        _hold.Dispose();
    }

    private void Withdraw(Func<string, bool>? keeps = null)
    {
        foreach (JobFolder job in _work.Jobs.Where(j => !j.IsDone))
        {
            job.Withdraw(keeps);
        }
    }

    private Offered Offer(TrainingJob job)
    {
        using VisionModel net = job.Net;
        if (!_images.TryGetValue(job.Images, out string? images))
        {
            _images[job.Images] = images = _work.Keep(job.Images);
        }

        var description = JobDescription.Of(job, images, _options.ThreadsEach);
        string content = $"{net.Config.ToJsonText()} {TensorDigest.Of(net.Tensors.Select(t => t.Value))} {string.Join(',', job.Masks?.Keys ?? [])} {TensorDigest.Of(job.Masks?.Values ?? [])}";
        JobFolder folder = _work.For(description, content, _taken);
        _taken.Add(folder.Name);
        if (!folder.IsDone)
        {
            folder.Offer(job, description);
        }

        return new Offered(folder, net.Device);
    }

    private VisionModel Take(Offered offered, bool keep)
    {
        VisionModel net = offered.Folder.Result(offered.Device);
        if (keep)
        {
            offered.Folder.Shrink();
        }
        else
        {
            offered.Folder.Delete();
            _taken.Remove(offered.Folder.Name);
        }

        return net;
    }

    /// <summary>Looks at what is going on, and has workers where they are needed.</summary>
    private void Watch(IReadOnlyCollection<Offered> open, IProgressTask task)
    {
        long moved = 0;
        foreach (Offered job in open.Where(o => !o.Seen))
        {
            if (job.Folder.Failure is { } sentence)
            {
                throw new EspalierException(sentence);
            }

            long step = job.Step;
            if (job.Folder.IsDone)
            {
                JobOutcome outcome = job.Folder.Outcome();
                (job.Seen, step) = (true, outcome.Steps);
                Weigh(outcome.PeakBytes, outcome.Machine == Environment.MachineName, settled: true);
                _processes.Succeeded();
            }
            else if (job.Folder.LatestClaim is > 0 and var claim)
            {
                ClaimBeat? beat = JobClaim.Read(job.Folder.ClaimPath(claim));
                step = Math.Max(step, beat?.Step ?? 0);
                Weigh(beat?.PeakBytes ?? 0, beat is not null && ProcessMark.IsAlive(beat.Process, beat.Mark) is not null, beat?.Step >= SettledAfter);
                bool over = claim == JobFolder.MostClaims && !JobClaim.IsAlive(job.Folder.ClaimPath(claim), _work) && job.Folder.IsOpen;
                EspalierException.Require(!over, over ? GivenUp(job.Folder, beat) : "");
            }

            bool gone = !job.Folder.IsOpen && !job.Folder.IsDone && job.Folder.Failure is null;
            EspalierException.Require(!gone, $"{job.Folder.Name} has gone from {_work.Path} before it was done; run the same command again with --resume.");
            moved += step - job.Step;
            job.Step = step;
        }

        task.Advance(moved);
        _processes.Tend(open.Count(o => !o.Seen), _peak, _settled);
    }

    // Only workers of this machine share its memory.
    private void Weigh(long peak, bool here, bool settled)
    {
        if (here)
        {
            (_peak, _settled) = (Math.Max(_peak, peak), _settled || settled);
        }
    }

    private string GivenUp(JobFolder job, ClaimBeat? beat)
    {
        string words = beat?.Fault ?? _processes.LastWords;
        return $"{job.Name} was begun {JobFolder.MostClaims} times, and each time its worker ended before the training did{(words.Length == 0 ? "" : $", last with: {words.TrimEnd('.')}")}; the machine may be short of memory: take fewer --workers, or set --memory-limit.";
    }

    /// <summary>A job in the folder.</summary>
    private sealed record Offered(JobFolder Folder, Device Device)
    {
        public bool Seen { get; set; }

        public long Step { get; set; }
    }
}
