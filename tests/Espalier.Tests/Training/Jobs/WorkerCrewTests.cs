using System.Diagnostics;
using System.Text.Json;
using Espalier.Data;
using Espalier.Methods.Merging;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using Espalier.Training.Jobs;
using static TorchSharp.torch;

namespace Espalier.Tests.Training.Jobs;

/// <summary>Workers in processes of their own.</summary>
public sealed class WorkerCrewTests : IDisposable
{
    private static readonly TrainingOptions Options = new() { Steps = 6, LearningRate = 0.02, Optimizer = "sgd", Momentum = 0.9, WeightDecay = 1e-4, SaveEvery = 200 };

    private readonly TemporaryFolder _folder = new();
    private readonly ImageTensors _images = TinyVision.Noise();
    private readonly VisionModel _net = TinyVision.Make(TinyVision.ResNet);

    private readonly int _threads = get_num_threads();

    public WorkerCrewTests() => set_num_threads(1);

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private string Work => _folder["work"];

    public void Dispose()
    {
        _images.Dispose();
        _net.Dispose();
        _folder.Dispose();
        set_num_threads(_threads);
    }

    [Fact]
    public void A_soup_from_two_workers_has_the_bytes_of_one_from_this_process_and_is_not_made_twice()
    {
        var sms = new Sms { Sparsity = 0.75, Phases = 2, Models = 3 };
        using VisionMethodResult here = sms.Run(Context(null), Cancellation);
        GC.Collect();
        GC.WaitForPendingFinalizers();
        long before = Parameters.LiveTensors;
        using (var crew = new WorkerCrew(Workers()))
        {
            using VisionMethodResult apart = sms.Run(Context(crew), Cancellation);
            TinyVision.Bytes(apart.Net).ShouldBe(TinyVision.Bytes(here.Net));
            apart.Figures.ShouldBe(here.Figures);
            Should.Throw<EspalierException>(() => new WorkerCrew(Workers())).Message.ShouldContain("in use by another run");
        }

        GC.Collect();
        GC.WaitForPendingFinalizers();
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
        WorkerCrew.HasJobs(Work).ShouldBeTrue();
        using (var again = new WorkerCrew(Workers() with { Tool = ["no-such-tool"] }))
        {
            // What was done in the folder needs no worker.
            using VisionMethodResult second = sms.Run(Context(again), Cancellation);
            TinyVision.Bytes(second.Net).ShouldBe(TinyVision.Bytes(here.Net));
            again.Clear();
        }

        WorkerCrew.HasJobs(Work).ShouldBeFalse();
    }

    [Fact]
    public void A_study_with_workers_says_what_one_without_says()
    {
        var oracle = new Oracle { Layers = ["features.0"], Repeats = 2 };
        using VisionModel net = TinyVision.Make(TinyVision.Vgg);
        VisionMethodContext context = Context(null) with { Model = net, Test = _images, Options = new TrainingOptions { Steps = 2, LearningRate = 0.01 } };
        using VisionMethodResult here = oracle.Run(context, Cancellation);
        using var crew = new WorkerCrew(Workers());
        using VisionMethodResult apart = oracle.Run(context with { Crew = crew, Folder = _folder["study"] }, Cancellation);
        apart.Figures.ShouldBe(here.Figures);
        TinyVision.Bytes(apart.Net).ShouldBe(TinyVision.Bytes(here.Net));
        Directory.GetDirectories(Work, "job-*").ShouldBeEmpty("the study's own file is what it goes on from");
        Directory.GetFiles(_folder["study"], "oracle-*.json").Length.ShouldBe(1);
    }

    [Fact]
    public void A_killed_workers_training_is_done_by_another()
    {
        TrainingOptions longer = Options with { Steps = 300, SaveEvery = 30 };
        using VisionModel here = _net.Clone();
        Context(null).Train(here, new Seed(7), options: longer, cancellation: Cancellation);
        using var crew = new WorkerCrew(Workers(1));
        using var killer = new Timer(_ =>
        {
            if (Directory.Exists(Work) && Directory.EnumerateFiles(Work, "state.safetensors", SearchOption.AllDirectories).Any() && !File.Exists(_folder["killed"]))
            {
                File.WriteAllText(_folder["killed"], "");
                using Process worker = Process.GetProcessById(crew.Workers.Single());
                worker.Kill();
            }
        }, null, 100, 20);
        using VisionModel apart = Context(crew).TrainAll([Context(null).Job(_net.Clone(), new Seed(7), options: longer)], Cancellation).Single();
        File.Exists(_folder["killed"]).ShouldBeTrue("the training was too short to be killed");
        TinyVision.Bytes(apart).ShouldBe(TinyVision.Bytes(here));
    }

    [Fact]
    public void A_training_that_fails_ends_all_with_its_sentence_and_no_worker_stays()
    {
        int[] ids;
        using (var crew = new WorkerCrew(Workers()))
        {
            TrainingOptions bad = Options with { LearningRate = 1e30 };
            TrainingJob[] jobs = [Context(null).Job(_net.Clone(), new Seed(1), options: bad), Context(null).Job(_net.Clone(), new Seed(2), options: Options with { Steps = 1_000_000 })];
            string said = Should.Throw<EspalierException>(() => Context(crew).TrainAll(jobs, Cancellation).ToArray()).Message;
            said.ShouldContain("lower the learning rate");
            ids = [.. crew.Workers];
            ids.Length.ShouldBe(2);
        }

        ids.ShouldAllBe(id => !IsRunning(id));
        using VisionModel mlp = TinyVision.Make(TinyVision.Mlp);
        using var second = new WorkerCrew(Workers(1));
        string wrong = Should.Throw<EspalierException>(() => Context(second).TrainAll([Context(null).Job(mlp.Clone(), new Seed(1))], Cancellation).ToArray()).Message;
        wrong.ShouldContain("The net takes images [count, 1, height, width]");
    }

    [Fact]
    public void A_cancelled_run_leaves_no_worker_and_goes_on_from_its_states()
    {
        TrainingOptions longer = Options with { Steps = 1_000_000 };
        using var stop = new CancellationTokenSource();
        int[] ids = [];
        using (var crew = new WorkerCrew(Workers(1)))
        {
            using var stopper = new Timer(_ =>
            {
                if (Directory.EnumerateFiles(Work, "state.safetensors", SearchOption.AllDirectories).Any())
                {
                    ids = [.. crew.Workers];
                    stop.Cancel();
                }
            }, null, 100, 50);
            Should.Throw<OperationCanceledException>(() => Context(crew).TrainAll([Context(null).Job(_net.Clone(), new Seed(1), options: longer)], stop.Token).ToArray());
        }

        ids.ShouldHaveSingleItem();
        ids.ShouldAllBe(id => !IsRunning(id));
        Directory.EnumerateFiles(Work, "claim-*", SearchOption.AllDirectories).ShouldBeEmpty();
        new TrainingWorker(Work).Run(Cancellation).Trained.ShouldBe(0, "what is not done was taken back");
        WorkerCrew.HasJobs(Work).ShouldBeTrue();
    }

    [Fact]
    public void What_cannot_work_is_said_at_the_start_or_as_soon_as_it_is_known()
    {
        File.WriteAllText(_folder["file"], "");
        Should.Throw<EspalierException>(() => new WorkerCrew(Workers() with { Folder = Path.Combine(_folder["file"], "work") })).Message.ShouldContain("file");
        Should.Throw<EspalierException>(() => Workers(0)).Message.ShouldContain("0 workers");

        using (var crew = new WorkerCrew(Workers() with { MemoryLimit = 20_000_000 }))
        {
            TrainingJob job = Context(null).Job(_net.Clone(), new Seed(1), options: Options with { Steps = 1_000_000 });
            Should.Throw<EspalierException>(() => Context(crew).TrainAll([job], Cancellation).ToArray()).Message.ShouldContain("--memory-limit");
        }

        using (var crew = new WorkerCrew(Workers() with { Tool = ["dotnet", "no-such-tool.dll"] }))
        {
            Should.Throw<EspalierException>(() => Context(crew).TrainAll([Context(null).Job(_net.Clone(), new Seed(1))], Cancellation).ToArray()).Message.ShouldContain("Train without --workers");
        }

        using (var crew = new WorkerCrew(Workers() with { Tool = ["no-such-tool"] }))
        {
            Should.Throw<EspalierException>(() => Context(crew).TrainAll([Context(null).Job(_net.Clone(), new Seed(2))], Cancellation).ToArray()).Message.ShouldContain("no-such-tool");
        }
    }

    [Fact]
    public void A_training_that_ends_its_workers_is_given_up()
    {
        using var crew = new WorkerCrew(Workers(1));
        Should.Throw<EspalierException>(() => Context(crew).TrainAll(Jobs(), Cancellation).ToArray()).Message.ShouldContain("begun 3 times, and each time its worker ended before the training did, last with: out of memory;");

        IEnumerable<TrainingJob> Jobs()
        {
            yield return Context(null).Job(_net.Clone(), new Seed(1), options: Options with { Steps = 1_000_000 });
            File.WriteAllText(Path.Combine(Directory.GetDirectories(Work, "job-*").Single(), "claim-3"), JsonSerializer.Serialize(new ClaimBeat(1, TrainingWorkerTests.Dead, 0, 0, "out of memory")));
        }
    }

    [Fact]
    public void A_job_that_someone_removes_is_missed()
    {
        using var crew = new WorkerCrew(Workers(1));
        Should.Throw<EspalierException>(() => Context(crew).TrainAll(Jobs(), Cancellation).ToArray()).Message.ShouldContain("has gone from");

        IEnumerable<TrainingJob> Jobs()
        {
            yield return Context(null).Job(_net.Clone(), new Seed(1));
            Directory.Delete(Directory.GetDirectories(Work, "job-*").Single(), recursive: true);
        }
    }

    [Fact]
    public void Workers_beyond_the_first_start_only_where_they_fit()
    {
        using (var processes = new WorkerProcesses(Workers(3) with { MemoryLimit = 1000, Tool = ["sleep", "60"] }))
        {
            // "sleep 60 work …" ends at once with an error; what counts is how many are started.
            processes.Tend(open: 5, peak: 0, settled: false);
            processes.Ids.Count.ShouldBe(1);
        }

        using (var processes = new WorkerProcesses(Workers(3) with { MemoryLimit = 1000, Tool = ["sleep", "60"] }))
        {
            processes.Tend(open: 5, peak: 450, settled: true);
            processes.Ids.Count.ShouldBe(2);
            Should.Throw<EspalierException>(() => processes.Tend(open: 5, peak: 1001, settled: true)).Message.ShouldContain("One worker takes 1.00 kB");
        }
    }

    private static bool IsRunning(int id)
    {
        try
        {
            using var process = Process.GetProcessById(id);
            return !process.HasExited;
        }
        catch (ArgumentException)
        {
            return false;
        }
    }

    private WorkerOptions Workers(int count = 2) => new() { Folder = Work, Workers = count, Threads = get_num_threads(), Device = "cpu", Tool = ["dotnet", Path.Combine(AppContext.BaseDirectory, "Espalier.Cli.dll")] };

    private VisionMethodContext Context(WorkerCrew? crew) => new()
    {
        Model = _net, Images = _images, Test = _images, Options = Options, Batch = 8, Seed = new Seed(2),
        States = crew is null ? null : new TrainingStates(_folder["states"]), Crew = crew is null ? OneAfterTheOther.Instance : crew,
    };
}
