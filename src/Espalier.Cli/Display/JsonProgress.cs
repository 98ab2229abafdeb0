using Espalier.Runtime;

namespace Espalier.Cli.Display;

/// <summary>Progress as JSON lines: begin, progress (at most four a second for each task), metric, say, warn, end.</summary>
internal sealed class JsonProgress(TextWriter output, TimeProvider clock) : IProgressSink
{
    private static readonly TimeSpan Interval = TimeSpan.FromMilliseconds(250);
    private int _tasks;

    public IProgressTask Begin(string name, long total, string unit)
    {
        int task = Interlocked.Increment(ref _tasks);
        JsonEvents.Write(output, new { @event = "begin", task, name, total, unit });
        return new Running(output, task, new Work(name, total, unit, clock));
    }

    public void Say(string message) => JsonEvents.Write(output, new { @event = "say", message });

    public void Warn(string message) => JsonEvents.Write(output, new { @event = "warn", message });

    public void Report(string metric, long step, double value) => JsonEvents.Write(output, new { @event = "metric", metric, step, value });

    private sealed class Running(TextWriter output, int task, Work work) : IProgressTask
    {
        private readonly Lock _lock = new();
        private TimeSpan? _last;
        private bool _ended;

        public void Advance(long units = 1)
        {
            work.Advance(units);
            lock (_lock)
            {
                if (_last is { } last && work.Elapsed - last < Interval)
                {
                    return;
                }

                _last = work.Elapsed;
                string? detail = work.Detail.Length > 0 ? work.Detail : null;
                JsonEvents.Write(output, new { @event = "progress", task, done = work.Done, total = work.Total, rate = Math.Round(work.Rate(), 4), detail });
            }
        }

        public void Describe(string detail) => work.Detail = detail;

        public void Dispose()
        {
            lock (_lock)
            {
                if (!_ended)
                {
                    JsonEvents.Write(output, new { @event = "end", task, done = work.Done, seconds = Math.Round(work.Elapsed.TotalSeconds, 3) });
                }

                _ended = true;
            }
        }
    }
}
