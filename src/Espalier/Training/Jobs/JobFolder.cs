using System.Globalization;
using System.Text.Json;
using Espalier.Checkpoints;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Training.Jobs;

/// <summary>What a finished training left beside its net.</summary>
/// <param name="Steps">The steps done.</param>
/// <param name="Loss">The loss of the last.</param>
/// <param name="Seconds">The time in training.</param>
/// <param name="PeakBytes">The highest resident memory of the process that trained.</param>
/// <param name="Machine">Where that was.</param>
internal sealed record JobOutcome(long Steps, double Loss, double Seconds, long PeakBytes, string Machine);

/// <summary>
/// A training as a folder: <c>start/</c> (net and masks) and then <c>job.json</c> offer it, <c>claim-N</c> says who has it, <c>state/</c> is where it is,
/// <c>result/</c> and then <c>done.json</c> (or <c>failed</c>, one sentence) end it. Every file appears whole.
/// </summary>
internal sealed class JobFolder(string path)
{
    /// <summary>What a number of begun trainings of one job is ended by: something about it kills its workers.</summary>
    public const int MostClaims = 3;

    private const string ClaimPrefix = "claim-";

    public string Name => System.IO.Path.GetFileName(path);

    public string StateFolder => In("state");

    public bool IsDone => File.Exists(In("done.json"));

    public bool IsOpen => File.Exists(In("job.json")) && !IsDone && !File.Exists(In("failed"));

    public string? Failure => File.Exists(In("failed")) ? File.ReadAllText(In("failed")) : null;

    /// <summary>The number of the latest claim; 0 before the first.</summary>
    public int LatestClaim => Directory.Exists(path) ? Directory.EnumerateFiles(path, $"{ClaimPrefix}*").Select(NumberOf).DefaultIfEmpty(0).Max() : 0;

    public string ClaimPath(int number) => In(string.Create(CultureInfo.InvariantCulture, $"{ClaimPrefix}{number}"));

    /// <summary>Writes the job; from then on workers may take it.</summary>
    public void Offer(TrainingJob job, JobDescription description)
    {
        job.Net.Save(In("start"));
        if (job.Masks is { Count: > 0 } masks)
        {
            IReadOnlyDictionary<string, SparsityMask> packed = VisionMethodResult.Pack(masks);
            SparsityMasks.Save(In("start"), [.. packed.Keys], name => packed[name]);
        }

        description.Save(In("job.json"));
    }

    /// <summary>Takes back what is not done; the state stays, so that the same job goes on from there when it is offered again.</summary>
    /// <param name="keeps">Whether a claim stays, because its worker is at it and the job will come again; null takes all back.</param>
    public void Withdraw(Func<string, bool>? keeps = null)
    {
        File.Delete(In("job.json"));
        File.Delete(In("failed"));
        for (int number = LatestClaim; number > 0 && keeps?.Invoke(ClaimPath(number)) != true; number--)
        {
            File.Delete(ClaimPath(number));
        }
    }

    public JobDescription Description => JobDescription.Load(In("job.json"));

    /// <summary>The job itself; its net and masks are the caller's.</summary>
    /// <exception cref="EspalierException">When a file of it is damaged.</exception>
    public TrainingJob Read(JobDescription description, Data.ImageTensors images, Device? device)
    {
        VisionModel net = VisionModel.Load(In("start"), device);
        try
        {
            return new TrainingJob(net, images, description.Options)
            {
                Masks = Masks(net), Rates = description.Rates, Seed = new Seed(description.Seed), Batch = description.Batch, Augmentation = description.Augmentation,
            };
        }
        catch
        {
            net.Dispose();
            throw;
        }
    }

    public void Finish(VisionModel net, JobOutcome outcome)
    {
        net.Save(In("result"));
        AtomicFile.WriteText(In("done.json"), JsonSerializer.Serialize(outcome));
    }

    public void Fail(string sentence) => AtomicFile.WriteText(In("failed"), sentence);

    public JobOutcome Outcome()
    {
        try
        {
            return JsonSerializer.Deserialize<JobOutcome>(File.ReadAllText(In("done.json")))!;
        }
        catch (JsonException fault)
        {
            throw new EspalierException($"{In("done.json")} is damaged; delete {path}, and the training is done again.", fault);
        }
    }

    public VisionModel Result(Device device) => VisionModel.Load(In("result"), device);

    /// <summary>Keeps what a run that goes on later needs: the result.</summary>
    public void Shrink()
    {
        foreach (string folder in new[] { In("start"), StateFolder }.Where(Directory.Exists))
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>Removes the folder; first what offers it, or a worker would take a job that is half gone.</summary>
    public void Delete()
    {
        for (int again = 20; ; again--)
        {
            try
            {
                File.Delete(In("job.json"));
                Directory.Delete(path, recursive: true);
                return;
            }
            catch (DirectoryNotFoundException)
            {
                return;
            }
            catch (IOException) when (again > 0)
            {
                // A worker that had looked before is just letting go of it.
                Thread.Sleep(50);
            }
        }
    }

    private static int NumberOf(string claim) =>
        int.TryParse(System.IO.Path.GetFileName(claim).AsSpan(ClaimPrefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out int number) ? number : 0;

    private Dictionary<string, Tensor>? Masks(VisionModel net)
    {
        using var scope = NewDisposeScope();
        IReadOnlyDictionary<string, SparsityMask> packed = SparsityMasks.Load(In("start"));
        if (packed.Count == 0)
        {
            return null;
        }

        var masks = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        foreach ((string name, SparsityMask mask) in packed)
        {
            Tensor weight = net.Parameters.FirstOrDefault(p => p.Name == name).Value
                ?? throw new EspalierException($"{In("start")} has a mask for {name}, which is no weight of its net; delete {path}, and the run that wrote it writes it anew.");
            EspalierException.Require(mask.Count == weight.numel(), $"The mask of {name} in {In("start")} is for {mask.Count} weights and not for {weight.numel()}; delete {path}, and the run that wrote it writes it anew.");
            masks[name] = mask.ToTensor(net.Device).reshape(weight.shape).MoveToOuterDisposeScope();
        }

        return masks;
    }

    private string In(string name) => System.IO.Path.Combine(path, name);
}
