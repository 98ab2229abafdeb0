using System.Text.Json;
using Espalier.Data;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using Espalier.Training.Jobs;
using static TorchSharp.torch;

namespace Espalier.Tests.Training.Jobs;

/// <summary>Workers in this process, on a folder that is written by hand.</summary>
public sealed class TrainingWorkerTests : IDisposable
{
    private static readonly TrainingOptions Options = new() { Steps = 4, LearningRate = 0.02 };

    private readonly TemporaryFolder _folder = new();
    private readonly ImageTensors _images = TinyVision.Noise();
    private readonly WorkFolder _work;

    private readonly int _threads = get_num_threads();

    public TrainingWorkerTests()
    {
        set_num_threads(1);
        _work = WorkFolder.Create(_folder.Path);
    }

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public void Dispose()
    {
        _images.Dispose();
        _folder.Dispose();
        set_num_threads(_threads);
    }

    [Fact]
    public async Task Two_workers_never_take_one_job_and_leave_no_tensor()
    {
        Offer(8);
        GC.Collect();
        GC.WaitForPendingFinalizers();
        long before = Parameters.LiveTensors;
        WorkerReport[] reports = await Task.WhenAll(Enumerable.Range(0, 2).Select(_ => Task.Run(() => new TrainingWorker(_folder.Path).Run(Cancellation))));
        reports.Sum(r => r.Trained).ShouldBe(8);
        _work.Jobs.ShouldAllBe(j => j.IsDone && j.LatestClaim == 1);
        GC.Collect();
        GC.WaitForPendingFinalizers();
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
        new TrainingWorker(_folder.Path).Run(Cancellation).Trained.ShouldBe(0);
    }

    [Fact]
    public void A_claim_goes_to_another_when_its_process_is_gone_or_silent_and_not_before()
    {
        JobFolder job = Offer(1)[0];
        Claim(job, 1, "elsewhere|boot|space|1", DateTime.UtcNow);
        new TrainingWorker(_folder.Path).Run(Cancellation).Trained.ShouldBe(0);
        File.SetLastWriteTimeUtc(job.ClaimPath(1), DateTime.UtcNow.AddSeconds(-61));
        JobClaim taken = JobClaim.TryTake(job, _work)!;
        job.LatestClaim.ShouldBe(2);
        taken.IsLost.ShouldBeFalse();
        JobClaim.TryTake(job, _work).ShouldBeNull();
        taken.Release();

        Claim(job, 2, Dead, DateTime.UtcNow);
        new TrainingWorker(_folder.Path).Run(Cancellation).Trained.ShouldBe(1);
        job.LatestClaim.ShouldBe(3);
    }

    [Fact]
    public void A_job_whose_workers_are_gone_three_times_is_not_begun_again()
    {
        JobFolder job = Offer(1)[0];
        Claim(job, JobFolder.MostClaims, Dead, DateTime.UtcNow);
        JobClaim.TryTake(job, _work).ShouldBeNull();
        job.Withdraw();
        (job.IsOpen, job.LatestClaim).ShouldBe((false, 0));
    }

    [Fact]
    public void A_worker_that_has_lost_its_job_lets_go_of_it()
    {
        JobFolder job = Offer(1, Options with { Steps = 1_000_000 })[0];
        var worker = new TrainingWorker(_folder.Path) { BeatEvery = TimeSpan.FromMilliseconds(50) };
        using var later = new Timer(_ => File.WriteAllText(job.ClaimPath(2), ""), null, 500, Timeout.Infinite);
        worker.Run(Cancellation).Failures.ShouldBeEmpty();
        (job.IsDone, job.LatestClaim).ShouldBe((false, 2));
    }

    [Fact]
    public void A_worker_that_is_stopped_saves_its_training_and_gives_the_job_back()
    {
        JobFolder job = Offer(1, Options with { Steps = 1_000_000 })[0];
        using var stop = new CancellationTokenSource(500);
        Should.Throw<OperationCanceledException>(() => new TrainingWorker(_folder.Path).Run(stop.Token));
        job.LatestClaim.ShouldBe(0);
        TrainingLoop.HasState(job.StateFolder).ShouldBeTrue();
    }

    [Theory]
    [InlineData("job.json", "no sound description")]
    [InlineData("start/model.safetensors", "model.safetensors")]
    [InlineData("start/config.json", "config.json")]
    [InlineData("../images", "images-")]
    public void A_file_that_is_cut_short_is_said_in_a_sentence(string file, string said)
    {
        JobFolder job = Offer(1)[0];
        string path = file == "../images" ? Directory.GetFiles(_folder.Path, "images-*").Single() : Path.Combine(_folder.Path, job.Name, file);
        File.WriteAllBytes(path, File.ReadAllBytes(path)[..20]);
        string failure = new TrainingWorker(_folder.Path).Run(Cancellation).Failures.ShouldHaveSingleItem();
        failure.ShouldContain(said);
        job.Failure.ShouldBe(failure);
    }

    [Theory]
    [InlineData("\"format\": \"espalier-training-job-1\"", "\"format\": \"espalier-training-job-2\"", "same version")]
    [InlineData("\"batch\": 8", "\"batch\": -8", "no training that is possible")]
    [InlineData("\"batch\": 8", "\"batch\": 8, \"later\": 1", "later")]
    [InlineData("\"steps\": 4", "\"steps\": 0", "number of steps")]
    public void A_description_of_something_else_is_refused(string was, string now, string said)
    {
        JobFolder job = Offer(1)[0];
        string path = Path.Combine(_folder.Path, job.Name, "job.json"), text = File.ReadAllText(path);
        text.ShouldContain(was);
        File.WriteAllText(path, text.Replace(was, now, StringComparison.Ordinal));
        new TrainingWorker(_folder.Path).Run(Cancellation).Failures.ShouldHaveSingleItem().ShouldContain(said);
    }

    [Fact]
    public void A_folder_that_is_none_is_refused_once_the_waiting_is_over()
    {
        using var other = new TemporaryFolder();
        Should.Throw<EspalierException>(() => new TrainingWorker(other.Path).Run(Cancellation)).Message.ShouldContain("--work-folder");
        using var later = new Timer(_ => WorkFolder.Create(other.Path), null, 200, Timeout.Infinite);
        new TrainingWorker(other.Path) { Wait = TimeSpan.FromSeconds(1.5) }.Run(Cancellation).Trained.ShouldBe(0);
    }

    /// <summary>The mark of a process of this machine that is gone.</summary>
    internal static string Dead => ProcessMark.Current[..ProcessMark.Current.LastIndexOf('|')] + "|1";

    private static void Claim(JobFolder job, int number, string mark, DateTime written)
    {
        File.WriteAllText(job.ClaimPath(number), JsonSerializer.Serialize(new ClaimBeat(1, mark, 0, 0, null)));
        File.SetLastWriteTimeUtc(job.ClaimPath(number), written);
    }

    private JobFolder[] Offer(int count, TrainingOptions? options = null) =>
    [
        .. Enumerable.Range(0, count).Select(i =>
        {
            using VisionModel net = TinyVision.Make(TinyVision.Vgg);
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            Tensor mask = net.Weights[0].Weight.gt(0);
            net.Weights[0].Weight.mul_(mask);
            var job = new TrainingJob(net, _images, options ?? Options) { Batch = 8, Seed = new Seed(i), Masks = new Dictionary<string, Tensor> { [net.Weights[0].WeightName] = mask } };
            var description = JobDescription.Of(job, _work.Keep(_images), get_num_threads());
            JobFolder folder = _work.For(description, "", new HashSet<string>());
            folder.Offer(job, description);
            return folder;
        }),
    ];
}
