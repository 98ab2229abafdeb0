using System.Text.Json;
using Espalier.Runtime;

namespace Espalier.Training.Jobs;

/// <summary>What a worker says of itself in its claim.</summary>
/// <param name="Process">Its process.</param>
/// <param name="Mark">The mark of the process (<see cref="ProcessMark"/>).</param>
/// <param name="Step">The steps of the training that it has done.</param>
/// <param name="PeakBytes">Its highest resident memory.</param>
/// <param name="Fault">What it ended with, where that was no fault of the training.</param>
internal sealed record ClaimBeat(int Process, string Mark, long Step, long PeakBytes, string? Fault);

/// <summary>
/// A worker's hold on a job: the file <c>claim-N</c>, which only one can create, written anew every few seconds. When its process is gone, or it has
/// not been written for <see cref="WorkFolder.Patience"/>, any worker may create <c>claim-N+1</c>; the old holder sees that and lets go.
/// </summary>
internal sealed class JobClaim
{
    private readonly JobFolder _job;
    private readonly int _number;
    private readonly Lock _writing = new();

    private JobClaim(JobFolder job, int number) => (_job, _number) = (job, number);

    private string Path => _job.ClaimPath(_number);

    /// <summary>Whether another has the job now, or it was withdrawn.</summary>
    public bool IsLost => !File.Exists(Path) || File.Exists(_job.ClaimPath(_number + 1));

    /// <summary>Takes a job; null when it is not to be had.</summary>
    public static JobClaim? TryTake(JobFolder job, WorkFolder work)
    {
        try
        {
            int latest = job.IsOpen ? job.LatestClaim : JobFolder.MostClaims;
            if (latest >= JobFolder.MostClaims || (latest > 0 && IsAlive(job.ClaimPath(latest), work)))
            {
                return null;
            }

            var claim = new JobClaim(job, latest + 1);
            using (new FileStream(claim.Path, FileMode.CreateNew, FileAccess.Write))
            {
                // Whoever creates it has the job.
            }

            claim.Beat(0);
            if (job.IsOpen)
            {
                return claim;
            }

            claim.Release();
            return null;
        }
        catch (Exception fault) when (fault is IOException)
        {
            // Another was faster, or the job's folder has just gone.
            return null;
        }
    }

    /// <summary>Whether whoever wrote a claim still works on it.</summary>
    public static bool IsAlive(string path, WorkFolder work)
    {
        ClaimBeat? beat = Read(path);
        return (beat is null || ProcessMark.IsAlive(beat.Process, beat.Mark) != false) && work.Now - File.GetLastWriteTimeUtc(path) < work.Patience;
    }

    /// <summary>What a claim says; null while it is being written.</summary>
    public static ClaimBeat? Read(string path)
    {
        try
        {
            using var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
            return JsonSerializer.Deserialize<ClaimBeat>(stream);
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException or JsonException)
        {
            return null;
        }
    }

    /// <summary>Says that the worker lives, and how far it is.</summary>
    public void Beat(long step, string? fault = null)
    {
        byte[] text = JsonSerializer.SerializeToUtf8Bytes(new ClaimBeat(Environment.ProcessId, ProcessMark.Current, step, Machine.PeakResidentBytes, fault));
        try
        {
            lock (_writing)
            {
                // Not by renaming: that would bring a claim back whose job has been withdrawn.
                using var stream = new FileStream(Path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite | FileShare.Delete);
                stream.Write(text);
                stream.SetLength(text.Length);
            }
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // A beat that is missed is made up by the next; many mean that the job goes to another.
        }
    }

    /// <summary>Gives the job back as if it had never been taken.</summary>
    public void Release()
    {
        if (Directory.Exists(System.IO.Path.GetDirectoryName(Path)))
        {
            File.Delete(Path);
        }
    }
}
