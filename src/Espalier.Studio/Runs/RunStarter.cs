using System.Collections.Concurrent;
using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Threading.Channels;
using Espalier.Runs;
using Espalier.Runtime;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

namespace Espalier.Studio.Runs;

/// <summary>Starts runs as processes of the <c>espalier</c> tool, one after the other, writes what they say into the store, and stops them where nothing is lost.</summary>
internal sealed partial class RunStarter(StudioOptions options, RunShelf shelf, ToolProcess tool, ILogger<RunStarter> log) : BackgroundService
{
    /// <summary>The tag of runs that the studio has started.</summary>
    public const string Tag = "studio";

    private const int Terminate = 15;

    private readonly Channel<string> _queue = Channel.CreateUnbounded<string>();
    private readonly ConcurrentDictionary<string, RunRecording> _working = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, bool> _stopped = new(StringComparer.Ordinal);

    /// <summary>Where runs of the studio put what they make.</summary>
    public string Folder => Path.Combine(options.Home, "studio", "runs");

    /// <summary>Queues a plan of <c>espalier prune</c>.</summary>
    /// <param name="plan">The plan; its output folder is given here.</param>
    /// <param name="title">What a person calls it.</param>
    /// <param name="tags">Its tags.</param>
    /// <param name="cancellation">Gives up before it is queued.</param>
    public async Task<Run> StartAsync(Espalier.Pruning.PruneRequest plan, string title, IReadOnlyList<string> tags, CancellationToken cancellation)
    {
        string id = Guid.CreateVersion7().ToString("N"), folder = Path.Combine(Folder, id), output = Path.Combine(folder, "out");
        Directory.CreateDirectory(folder);
        string yaml = (plan with { Out = output }).ToYaml(), file = Path.Combine(folder, "plan.yaml");
        await File.WriteAllTextAsync(file, yaml, cancellation).ConfigureAwait(false);
        return await QueueAsync(new NewRun
        {
            Id = id, Command = "prune", Title = title, Model = plan.Model, Plan = yaml, Words = ["prune", file], WorkingFolder = folder, Folder = output, Seed = plan.Seed, Tags = [.. tags, Tag],
        }, cancellation).ConfigureAwait(false);
    }

    /// <summary>Queues a command from its form.</summary>
    /// <param name="desk">Reads drafts.</param>
    /// <param name="draft">The draft.</param>
    /// <param name="title">What a person calls it.</param>
    /// <param name="tags">Its tags.</param>
    /// <param name="cancellation">Gives up before it is queued.</param>
    public async Task<Run> StartAsync(CommandDesk desk, CommandDraft draft, string title, IReadOnlyList<string> tags, CancellationToken cancellation)
    {
        CommandForm form = desk.Form(draft.Command);
        string id = Guid.CreateVersion7().ToString("N"), folder = Path.Combine(Folder, id), output = Path.Combine(folder, "out");
        (IReadOnlyList<string> words, ToolWords read) = desk.Read(draft, output);
        Directory.CreateDirectory(form.OutFile is null ? folder : output);
        return await QueueAsync(new NewRun
        {
            Id = id, Command = form.Name, Title = title, Model = read.Model, Plan = read.Plan, Words = words, WorkingFolder = folder, Folder = form.Out is null ? "" : output, Seed = read.Seed, Tags = [.. tags, Tag],
        }, cancellation).ConfigureAwait(false);
    }

    /// <summary>Goes on with a run that was stopped or lost, in the same folder.</summary>
    public async Task<Run> ResumeAsync(RunDetails old, CancellationToken cancellation)
    {
        Run run = old.Run;
        EspalierException.Require(run.State is RunState.Interrupted or RunState.Failed, "Only a run that was stopped or has failed can be gone on with; clone this one instead.");
        IReadOnlyList<string> words = ShellWords.Of(run);
        EspalierException.Require(words.Count > 0 && Directory.Exists(run.WorkingFolder), "It is not known how this run was started, or its folder is gone; clone it instead.");
        return await QueueAsync(new NewRun
        {
            Id = Guid.CreateVersion7().ToString("N"), Command = run.Command, Title = run.Title, Model = run.Model, Plan = run.Plan, Words = [.. (options.Commands?.ToGoOn(run) ?? words).Where(w => w is not ("--fresh" or "--json"))],
            WorkingFolder = run.WorkingFolder, Folder = run.Folder, Seed = run.Seed, ResumedFrom = run.Id, Tags = [.. run.Tags.Select(t => t.Tag).Where(t => t != Tag), Tag],
        }, cancellation).ConfigureAwait(false);
    }

    /// <summary>Asks a run to stop where nothing is lost.</summary>
    public async Task StopAsync(RunDetails details, CancellationToken cancellation)
    {
        Run run = details.Run;
        if (_working.TryGetValue(run.Id, out RunRecording? recording))
        {
            _stopped[run.Id] = true;
            recording.Signal(Terminate);
        }
        else if (run.State is RunState.Queued)
        {
            _stopped[run.Id] = true;
            await (await shelf.StoreAsync(cancellation).ConfigureAwait(false)).FinishAsync(run.Id, new RunEnd(RunState.Interrupted), cancellation).ConfigureAwait(false);
        }
        else
        {
            EspalierException.Require(run.State is RunState.Running, "The run has ended already.");
            EspalierException.Require(run.ProcessId > 0 && run.ProcessId != Environment.ProcessId && ProcessMark.IsAlive(run.ProcessId, run.ProcessMark) == true && !OperatingSystem.IsWindows(),
                "The run works on another machine or under another program; stop it there.");
            _ = Kill(run.ProcessId, Terminate);
        }
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        try
        {
            IRunStore store = await shelf.StoreAsync(stoppingToken).ConfigureAwait(false);
            foreach (Run left in (await store.ListAsync(new RunFilter { States = [RunState.Queued], Tags = [Tag], Descending = false, Take = 100 }, stoppingToken).ConfigureAwait(false)).Runs)
            {
                _queue.Writer.TryWrite(left.Id);
            }
        }
        catch (EspalierException fault)
        {
            log.LogWarning("{Sentence}", fault.Message);
        }

        await Task.WhenAll(Enumerable.Range(0, options.RunsAtOnce).Select(_ => WorkAsync(stoppingToken))).ConfigureAwait(false);
    }

    private async Task<Run> QueueAsync(NewRun run, CancellationToken cancellation)
    {
        IRunStore store = await shelf.StoreAsync(cancellation).ConfigureAwait(false);
        Run queued = await store.BeginAsync(Dressed(run) with { Queued = true }, cancellation).ConfigureAwait(false);
        _queue.Writer.TryWrite(queued.Id);
        return queued;
    }

    private static NewRun Dressed(NewRun run) => run with
    {
        Version = typeof(RunStarter).Assembly.GetName().Version?.ToString(3) ?? "",
        Machine = new Dictionary<string, string> { ["system"] = RuntimeInformation.OSDescription, ["cores"] = Environment.ProcessorCount.ToString(System.Globalization.CultureInfo.InvariantCulture), [".NET"] = Environment.Version.ToString() },
    };

    private async Task WorkAsync(CancellationToken stopping)
    {
        await foreach (string id in _queue.Reader.ReadAllAsync(stopping).ConfigureAwait(false))
        {
            try
            {
                await RunOneAsync(id, stopping).ConfigureAwait(false);
            }
            catch (OperationCanceledException) when (stopping.IsCancellationRequested)
            {
                return;
            }
            catch (Exception fault)
            {
                log.LogError(fault, "Run {Id} could not be carried out", id);
                await FailAsync(id, fault is EspalierException ? fault.Message : "The run could not be started; the studio's terminal says why.").ConfigureAwait(false);
            }
        }
    }

    private async Task RunOneAsync(string id, CancellationToken stopping)
    {
        IRunStore store = await shelf.StoreAsync(stopping).ConfigureAwait(false);
        if (_stopped.ContainsKey(id) || await store.GetAsync(id, stopping).ConfigureAwait(false) is not { Run: { State: RunState.Queued } run })
        {
            return;
        }

        IReadOnlyList<string> words = ShellWords.Of(run);
        DateTime began = DateTime.UtcNow;
        await store.BeginAsync(Dressed(new NewRun
        {
            Id = id, Command = run.Command, Title = run.Title, Model = run.Model, Plan = run.Plan, Words = words, WorkingFolder = run.WorkingFolder, Folder = run.Folder, Seed = run.Seed, ResumedFrom = run.ResumedFrom,
        }), stopping).ConfigureAwait(false);
        ProcessStartInfo start = tool.Start([.. words, "--json"], run.WorkingFolder);

        // The studio writes down what the process says; it is not written a second time.
        start.Environment[RunLocation.Variable] = "none";
        using var recording = new RunRecording(store, id, Process.Start(start) ?? throw new EspalierException("The espalier tool could not be started."));
        _working[id] = recording;
        try
        {
            using CancellationTokenRegistration closing = stopping.Register(() => recording.Signal(Terminate));
            RunEnd end = await recording.FollowAsync().ConfigureAwait(false);
            bool stopped = _stopped.ContainsKey(id) || stopping.IsCancellationRequested;
            await store.AddArtefactsAsync(id, OutputFiles.Of(run.Folder, began), CancellationToken.None).ConfigureAwait(false);
            await store.FinishAsync(id, stopped && end.State is not RunState.Finished ? end with { State = RunState.Interrupted, Error = "" } : end, CancellationToken.None).ConfigureAwait(false);
        }
        finally
        {
            _working.TryRemove(id, out _);
            _stopped.TryRemove(id, out _);
        }
    }

    private async Task FailAsync(string id, string sentence)
    {
        try
        {
            await (await shelf.StoreAsync().ConfigureAwait(false)).FinishAsync(id, new RunEnd(RunState.Failed) { Error = sentence }).ConfigureAwait(false);
        }
        catch (EspalierException fault)
        {
            log.LogError("{Sentence}", fault.Message);
        }
    }

    internal static void SignalProcess(Process process, int signal)
    {
        if (OperatingSystem.IsWindows())
        {
            process.Kill(entireProcessTree: true);
        }
        else
        {
            _ = Kill(process.Id, signal);
        }
    }

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int Kill(int process, int signal);
}
