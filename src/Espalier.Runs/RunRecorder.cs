using System.Collections.Concurrent;
using Espalier.Runtime;

namespace Espalier.Runs;

/// <summary>Records a run while it works: a progress sink that passes everything on and writes it to the store from the side.</summary>
/// <remarks>The run never waits for the store and never fails with it: what cannot be saved is tried again, with one warning, until the run has ended.</remarks>
public sealed class RunRecorder : IProgressSink, IDisposable
{
    /// <summary>The variable with the id of a queued run that the next command takes up.</summary>
    public const string IdVariable = "ESPALIER_RUN_ID";

    /// <summary>The variable with the id of the run that the next command goes on with.</summary>
    public const string ResumesVariable = "ESPALIER_RUN_RESUMES";

    // With a store that is away for hours a run goes on; so much is kept for its return, the oldest first.
    private const int MostWaiting = 500_000, LargestBatch = 5_000;

    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(1), MoveInterval = TimeSpan.FromSeconds(2), BeatInterval = TimeSpan.FromSeconds(10), RetryInterval = TimeSpan.FromSeconds(15);

    private readonly IProgressSink _inner;
    private readonly Func<Task<IRunStore>> _open;
    private readonly NewRun _run;
    private readonly ConcurrentQueue<MetricPoint> _metrics = new();
    private readonly ConcurrentQueue<LogLine> _lines = new();
    private readonly ConcurrentQueue<Action<Run>> _changes = new();
    private readonly CancellationTokenSource _stop = new();
    private readonly RunningWork _work = new();
    private readonly Task _writer;
    private IRunStore? _store;
    private (double? Share, string Doing)? _beaten;
    private DateTime _beat, _retry;
    private bool _begun, _deleted, _warned;

    private RunRecorder(IProgressSink inner, Func<Task<IRunStore>> open, NewRun run)
    {
        (_inner, _open, _run) = (inner, open, run with { Id = run.Id ?? Guid.CreateVersion7().ToString("N") });
        _writer = Task.Run(WriteAsync);
    }

    /// <summary>The run's id, also before the store knows it.</summary>
    public string Id => _run.Id!;

    /// <summary>Begins to record.</summary>
    /// <param name="inner">Where progress goes.</param>
    /// <param name="open">Opens the store; called on another thread.</param>
    /// <param name="run">What is known of the run; more comes by <see cref="Describe"/>.</param>
    public static RunRecorder Start(IProgressSink inner, Func<Task<IRunStore>> open, NewRun run) => new(inner, open, run);

    /// <summary>Says more of the run once it is known.</summary>
    public void Describe(Action<Run> change) => _changes.Enqueue(change);

    /// <inheritdoc/>
    public IProgressTask Begin(string name, long total, string unit) => _work.Begin(_inner.Begin(name, total, unit), name, total);

    /// <inheritdoc/>
    public void Say(string message)
    {
        _inner.Say(message);
        Add("say", message);
    }

    /// <inheritdoc/>
    public void Warn(string message)
    {
        _inner.Warn(message);
        Add("warn", message);
    }

    /// <inheritdoc/>
    public void Report(string metric, long step, double value)
    {
        _inner.Report(metric, step, value);
        if (_metrics.Count < MostWaiting)
        {
            _metrics.Enqueue(new MetricPoint { Name = metric, Step = step, Value = value, Time = DateTime.UtcNow });
        }
    }

    /// <summary>Ends the recording: what still waits is saved, then the files and the end.</summary>
    /// <param name="end">How the run ended.</param>
    /// <param name="artefacts">What it made.</param>
    public async Task FinishAsync(RunEnd end, IReadOnlyList<Artefact> artefacts)
    {
        if (end.Error.Length > 0)
        {
            Add("error", end.Error);
        }

        await _stop.CancelAsync().ConfigureAwait(false);
        await _writer.ConfigureAwait(false);
        bool saved = await TryAsync(async store =>
        {
            await SaveAsync(store, beat: false).ConfigureAwait(false);
            await store.AddArtefactsAsync(Id, artefacts).ConfigureAwait(false);
            await store.FinishAsync(Id, end).ConfigureAwait(false);
        }).ConfigureAwait(false);
        if (!saved && !_deleted)
        {
            _inner.Warn($"The end of this run could not be recorded; `espalier runs list` will show it as interrupted, if at all.");
        }

        if (_store is not null)
        {
            await _store.DisposeAsync().ConfigureAwait(false);
        }
    }

    /// <summary>Ends bars on the terminal; recording goes on until <see cref="FinishAsync"/>.</summary>
    public void Dispose() => (_inner as IDisposable)?.Dispose();

    private void Add(string level, string text)
    {
        if (_lines.Count < MostWaiting)
        {
            _lines.Enqueue(new LogLine { Level = level, Text = text, Time = DateTime.UtcNow });
        }
    }

    private async Task WriteAsync()
    {
        while (!_stop.IsCancellationRequested)
        {
            if (DateTime.UtcNow >= _retry && !await TryAsync(store => SaveAsync(store, beat: true)).ConfigureAwait(false))
            {
                _retry = DateTime.UtcNow + RetryInterval;
            }

            await Task.Delay(Interval, _stop.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private async Task<bool> TryAsync(Func<IRunStore, Task> save)
    {
        if (_deleted)
        {
            return false;
        }

        try
        {
            _store ??= await _open().ConfigureAwait(false);
            if (!_begun)
            {
                await _store.BeginAsync(_run).ConfigureAwait(false);
                (_begun, _beat) = (true, DateTime.UtcNow);
            }

            await save(_store).ConfigureAwait(false);
            return true;
        }
        catch (Exception fault)
        {
            // Whatever the store's fault is, the run is none of it.
            if (_begun && await IsDeletedAsync().ConfigureAwait(false))
            {
                _deleted = true;
            }
            else if (!_warned)
            {
                _warned = true;
                _inner.Warn($"This run is not recorded for now: {fault.Message.Split('\n')[0]}");
            }

            return false;
        }
    }

    private async Task<bool> IsDeletedAsync()
    {
        try
        {
            return await _store!.GetAsync(Id).ConfigureAwait(false) is null;
        }
        catch (Exception)
        {
            return false;
        }
    }

    private async Task SaveAsync(IRunStore store, bool beat)
    {
        if (_changes.ToArray() is { Length: > 0 } changes)
        {
            await store.UpdateAsync(Id, run => Array.ForEach(changes, c => c(run))).ConfigureAwait(false);
            Drop(_changes, changes.Length);
        }

        // What is saved leaves the queue afterwards: a failed batch is whole for the next try.
        while (!_metrics.IsEmpty || !_lines.IsEmpty)
        {
            MetricPoint[] metrics = [.. _metrics.Take(LargestBatch)];
            LogLine[] lines = [.. _lines.Take(LargestBatch)];
            await store.AppendAsync(Id, metrics, lines).ConfigureAwait(false);
            Drop(_metrics, metrics.Length);
            Drop(_lines, lines.Length);
        }

        (double? Share, string Doing) now = _work.Now;
        DateTime time = DateTime.UtcNow;
        if (beat && (time - _beat > BeatInterval || (now != _beaten && time - _beat > MoveInterval)))
        {
            await store.BeatAsync(Id, now.Share, now.Doing).ConfigureAwait(false);
            (_beat, _beaten) = (time, now);
        }
    }

    private static void Drop<T>(ConcurrentQueue<T> queue, int count)
    {
        for (int i = 0; i < count; i++)
        {
            queue.TryDequeue(out _);
        }
    }
}
