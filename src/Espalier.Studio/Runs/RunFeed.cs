using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using Espalier.Runs;
using Microsoft.Extensions.Logging;

namespace Espalier.Studio.Runs;

/// <summary>
/// Runs as they go, for any number of readers: one look at the store for all who watch a run, one text for all of them.
/// A reader that falls behind is given a new beginning instead of a longer queue.
/// </summary>
internal sealed class RunFeed(RunShelf shelf, ILogger<RunFeed> log) : IDisposable
{
    private const int MostPoints = 1500, FirstLines = 300, Remembered = 64;
    private static readonly TimeSpan Interval = TimeSpan.FromMilliseconds(500);
    private static readonly JsonSerializerOptions Json = new(JsonSerializerDefaults.Web) { Converters = { new JsonStringEnumConverter(JsonNamingPolicy.CamelCase) }, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull };

    private readonly ConcurrentDictionary<string, Watch> _watched = new(StringComparer.Ordinal);

    /// <summary>How many readers there are.</summary>
    public int Readers => _watched.Values.Sum(w => w.Readers);

    /// <summary>The events of a run as server-sent events, in UTF-8: <c>run</c> (its state), <c>metrics</c>, <c>log</c>, and at last <c>end</c>.</summary>
    public async IAsyncEnumerable<ReadOnlyMemory<byte>> ReadAsync(string id, [EnumeratorCancellation] CancellationToken cancellation)
    {
        Watch watch = Enter(id);
        try
        {
            long next = -1;
            while (!cancellation.IsCancellationRequested)
            {
                (IReadOnlyList<(long Number, byte[] Text)> batches, byte[]? beginning, Task changed, bool ended) = watch.Since(next);
                if (beginning is not null)
                {
                    yield return beginning;
                }

                foreach ((long number, byte[] text) in batches)
                {
                    yield return text;
                    next = number;
                }

                if (beginning is not null && batches.Count == 0)
                {
                    next = watch.Last;
                }

                if (ended)
                {
                    yield break;
                }

                await Task.WhenAny(changed, Task.Delay(TimeSpan.FromSeconds(15), cancellation)).ConfigureAwait(false);
                if (!changed.IsCompleted && !cancellation.IsCancellationRequested)
                {
                    // A sign of life, so that nothing between closes a quiet line.
                    yield return ": still here\n\n"u8.ToArray();
                }
            }
        }
        finally
        {
            Leave(id, watch);
        }
    }

    public void Dispose()
    {
        foreach (Watch watch in _watched.Values)
        {
            watch.Stop.Cancel();
        }
    }

    private Watch Enter(string id)
    {
        lock (_watched)
        {
            Watch watch = _watched.GetOrAdd(id, _ => new Watch());
            if (watch.Readers++ == 0)
            {
                _ = Task.Run(() => FollowAsync(id, watch));
            }

            return watch;
        }
    }

    private void Leave(string id, Watch watch)
    {
        lock (_watched)
        {
            if (--watch.Readers == 0)
            {
                watch.Stop.Cancel();
                _watched.TryRemove(new KeyValuePair<string, Watch>(id, watch));
            }
        }
    }

    private async Task FollowAsync(string id, Watch watch)
    {
        CancellationToken stop = watch.Stop.Token;
        long metric = 0, line = 0;
        var history = new Dictionary<string, List<Point>>(StringComparer.Ordinal);
        var lines = new Queue<Line>();
        string lastState = "";
        try
        {
            IRunStore store = await shelf.StoreAsync(stop).ConfigureAwait(false);
            while (!stop.IsCancellationRequested)
            {
                RunDetails? details = await store.GetAsync(id, stop).ConfigureAwait(false);
                if (details is null)
                {
                    watch.Put(Event("end", new { state = "gone" }), null, ended: true);
                    return;
                }

                IReadOnlyList<MetricPoint> points = await store.MetricsAsync(id, new MetricQuery { AfterId = metric, Take = 20_000 }, stop).ConfigureAwait(false);
                IReadOnlyList<LogLine> said = await store.LogAsync(id, line, 2_000, stop).ConfigureAwait(false);
                Run run = details.Run;
                var fresh = new List<Point>();
                foreach (MetricPoint point in points.Where(p => !p.Name.StartsWith("sparsity/", StringComparison.Ordinal)))
                {
                    var shown = new Point(point.Name, point.Step, point.Value);
                    fresh.Add(shown);
                    Remember(history, shown);
                }

                var heard = said.Select(l => new Line(l.Time, l.Level, l.Text)).ToArray();
                foreach (Line one in heard)
                {
                    lines.Enqueue(one);
                    if (lines.Count > FirstLines)
                    {
                        lines.Dequeue();
                    }
                }

                metric = points.Count > 0 ? points[^1].Id : metric;
                line = said.Count > 0 ? said[^1].Id : line;
                var state = new { state = run.State, progress = run.Progress, doing = run.Doing, error = run.Error, seconds = Math.Round(run.Duration.TotalSeconds) };
                string stateText = JsonSerializer.Serialize(new { run.State, run.Progress, run.Doing, run.Error }, Json);
                bool over = run.State is not (RunState.Running or RunState.Queued) && points.Count == 0 && said.Count == 0;
                var batch = new StringBuilder();
                if (stateText != lastState)
                {
                    batch.Append(Event("run", state));
                }

                batch.Append(fresh.Count > 0 ? Event("metrics", fresh) : "").Append(heard.Length > 0 ? Event("log", heard) : "");
                if (over)
                {
                    batch.Append(Event("end", state));
                }

                lastState = stateText;
                if (batch.Length > 0 || watch.Last < 0)
                {
                    string beginning = Event("reset", new { }) + Event("run", state) + Event("metrics", history.Values.SelectMany(h => h)) + Event("log", lines) + (over ? Event("end", state) : "");
                    watch.Put(batch.ToString(), beginning, over);
                }

                if (over)
                {
                    return;
                }

                await Task.Delay(Interval, stop).ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException)
        {
            // The last reader has left.
        }
        catch (Exception fault)
        {
            log.LogError(fault, "A run could not be followed");
            watch.Put(Event("end", new { state = "unknown", error = "The run store could not be read; the studio's terminal says why." }), null, ended: true);
        }
    }

    // Of a long run every other point is let go when there are too many: what a chart shows stays the same.
    private static void Remember(Dictionary<string, List<Point>> history, Point point)
    {
        List<Point> known = history.TryGetValue(point.Metric, out List<Point>? list) ? list : history[point.Metric] = [];
        known.Add(point);
        if (known.Count > MostPoints)
        {
            history[point.Metric] = [.. known.Where((_, i) => i % 2 == 1)];
        }
    }

    private static string Event(string name, object data) => $"event: {name}\ndata: {JsonSerializer.Serialize(data, Json)}\n\n";

    private sealed record Point(string Metric, long Step, double? Value);

    private sealed record Line(DateTime Time, string Level, string Text);

    private sealed class Watch
    {
        private readonly Queue<(long Number, byte[] Text)> _batches = new();
        private byte[]? _beginning;
        private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private bool _ended;

        public int Readers { get; set; }

        public CancellationTokenSource Stop { get; } = new();

        public long Last { get; private set; } = -1;

        public void Put(string batch, string? beginning, bool ended)
        {
            TaskCompletionSource changed;
            lock (_batches)
            {
                _batches.Enqueue((++Last, Encoding.UTF8.GetBytes(batch)));
                if (_batches.Count > Remembered)
                {
                    _batches.Dequeue();
                }

                _beginning = beginning is null ? Encoding.UTF8.GetBytes(batch) : Encoding.UTF8.GetBytes(beginning);
                _ended = ended;
                (changed, _changed) = (_changed, new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously));
            }

            changed.SetResult();
        }

        /// <summary>What came after a batch; for a new reader, or one that fell behind, the beginning instead.</summary>
        public (IReadOnlyList<(long Number, byte[] Text)> Batches, byte[]? Beginning, Task Changed, bool Ended) Since(long next)
        {
            lock (_batches)
            {
                if (Last < 0)
                {
                    return ([], null, _changed.Task, false);
                }

                bool behind = next < 0 || (_batches.Count > 0 && _batches.Peek().Number > next + 1);
                return behind ? ([(Last, [])], _beginning, _changed.Task, _ended) : ([.. _batches.Where(b => b.Number > next)], null, _changed.Task, _ended);
            }
        }
    }
}
