using Espalier.Data;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training.Jobs;

/// <summary>What a worker did.</summary>
/// <param name="Trained">The trainings that it finished.</param>
/// <param name="Failures">One sentence for each that went wrong.</param>
public sealed record WorkerReport(int Trained, IReadOnlyList<string> Failures);

/// <summary>Does the trainings of a work folder, one after the other, beside any number of others that do the same, until none is left.</summary>
/// <param name="folder">The work folder.</param>
public sealed class TrainingWorker(string folder)
{
    private static readonly TimeSpan Look = TimeSpan.FromMilliseconds(200);

    /// <summary>Where nets are trained; null (default) is the CPU.</summary>
    public Device? Device { get; init; }

    /// <summary>Threads of each training; null (default) takes what each job says, so that every machine computes the same bits.</summary>
    public int? Threads { get; init; }

    /// <summary>How long to wait for new jobs, or for the folder to become a work folder. Default not at all.</summary>
    public TimeSpan Wait { get; init; }

    /// <summary>How often the claim is renewed. Default 2 s.</summary>
    public TimeSpan BeatEvery { get; init; } = TimeSpan.FromSeconds(2);

    /// <summary>How long a claim of another that is not renewed is left alone. Default 60 s.</summary>
    public TimeSpan Patience { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>Where progress is told.</summary>
    public IProgressSink Progress { get; init; } = SilentProgress.Instance;

    /// <summary>Works until no job is left and the waiting is over.</summary>
    /// <param name="cancellation">Ends the work early: the training's state is saved and its job given back.</param>
    /// <exception cref="EspalierException">When the folder is no work folder.</exception>
    public WorkerReport Run(CancellationToken cancellation = default)
    {
        int trained = 0;
        var failures = new List<string>();
        WorkFolder? work = null;
        (string Name, ImageTensors Images)? held = null;
        DateTime idle = DateTime.UtcNow;
        int threads = get_num_threads();
        try
        {
            while (true)
            {
                cancellation.ThrowIfCancellationRequested();
                work ??= WorkFolder.Exists(folder) || DateTime.UtcNow - idle >= Wait ? WorkFolder.Open(folder, Patience) : null;
                (JobFolder Job, JobClaim Claim)? next = work is null ? null : Take(work);
                if (next is { } taken)
                {
                    if (Do(work!, taken.Job, taken.Claim, ref held, cancellation) is { } failure)
                    {
                        failures.Add(failure);
                    }
                    else
                    {
                        trained++;
                    }

                    idle = DateTime.UtcNow;
                }
                else if (DateTime.UtcNow - idle >= Wait)
                {
                    return new WorkerReport(trained, failures);
                }
                else
                {
                    cancellation.WaitHandle.WaitOne(Look);
                }
            }
        }
        finally
        {
            held?.Images.Dispose();
            set_num_threads(threads);
        }
    }

    private static (JobFolder, JobClaim)? Take(WorkFolder work)
    {
        foreach (JobFolder job in work.Jobs)
        {
            if (JobClaim.TryTake(job, work) is { } claim)
            {
                return (job, claim);
            }
        }

        return null;
    }

    /// <summary>Trains one net; gives the sentence when that went wrong.</summary>
    private string? Do(WorkFolder work, JobFolder job, JobClaim claim, ref (string Name, ImageTensors Images)? held, CancellationToken cancellation)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        var steps = new StepCount(Progress);
        using var beat = new Timer(_ => Beat(claim, steps, stop), null, BeatEvery, BeatEvery);
        try
        {
            JobDescription description = job.Description;
            if (held?.Name != description.Images)
            {
                held?.Images.Dispose();
                held = null;
                held = (description.Images, work.Images(description.Images));
            }

            set_num_threads(Threads ?? description.Threads);
            using var scope = NewDisposeScope();
            TrainingJob training = job.Read(description, held.Value.Images, Device);
            using Models.Vision.VisionModel net = training.Net;
            Progress.Say($"{job.Name}: {description.Options.Steps} steps.");
            TrainingResult result = training.Run(job.StateFolder, steps, stop.Token);
            if (!claim.IsLost)
            {
                job.Finish(net, new JobOutcome(result.Steps, result.FinalLoss, result.Seconds, Machine.PeakResidentBytes, Environment.MachineName));
            }

            return null;
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            claim.Release();
            throw;
        }
        catch (Exception) when (claim.IsLost)
        {
            Progress.Say($"{job.Name} was withdrawn, or another worker has it.");
            return null;
        }
        catch (EspalierException fault)
        {
            job.Fail(fault.Message);
            return fault.Message;
        }
        catch (Exception fault)
        {
            claim.Beat(steps.Done, $"{fault.GetType().Name}: {fault.Message.Split('\n')[0]}");
            throw;
        }
    }

    private static void Beat(JobClaim claim, StepCount steps, CancellationTokenSource stop)
    {
        try
        {
            if (claim.IsLost)
            {
                stop.Cancel();
                return;
            }

            claim.Beat(steps.Done);
        }
        catch (ObjectDisposedException)
        {
            // The training has ended meanwhile.
        }
    }

    /// <summary>Hands progress on and counts the steps of the training.</summary>
    private sealed class StepCount(IProgressSink sink) : IProgressSink
    {
        private long _done;

        public long Done => Interlocked.Read(ref _done);

        public IProgressTask Begin(string name, long total, string unit) => new Task(this, sink.Begin(name, total, unit));

        public void Say(string message) => sink.Say(message);

        public void Warn(string message) => sink.Warn(message);

        public void Report(string metric, long step, double value) => sink.Report(metric, step, value);

        private sealed class Task(StepCount count, IProgressTask inner) : IProgressTask
        {
            public void Advance(long units = 1)
            {
                Interlocked.Add(ref count._done, units);
                inner.Advance(units);
            }

            public void Describe(string detail) => inner.Describe(detail);

            public void Dispose() => inner.Dispose();
        }
    }
}
