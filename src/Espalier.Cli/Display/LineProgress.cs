using System.Globalization;
using Espalier.Runtime;

namespace Espalier.Cli.Display;

/// <summary>Progress for a log or a pipe: a line when work begins, one now and then, one when it has ended.</summary>
internal sealed class LineProgress(TextWriter error, bool quiet, TimeProvider clock) : IProgressSink
{
    /// <summary>The least time between two lines about the same work.</summary>
    public static readonly TimeSpan Interval = TimeSpan.FromSeconds(10);

    private readonly Lock _lock = new();
    private readonly Dictionary<string, double> _figures = [];

    public IProgressTask Begin(string name, long total, string unit) => new Running(this, new Work(name, total, unit, clock));

    public void Say(string message)
    {
        if (!quiet)
        {
            Line(message);
        }
    }

    public void Warn(string message) => Line($"warning: {message}");

    public void Report(string metric, long step, double value)
    {
        lock (_lock)
        {
            _figures[metric] = value;
        }
    }

    private void Line(string text)
    {
        lock (_lock)
        {
            error.WriteLine(text);
            error.Flush();
        }
    }

    private string Figures()
    {
        lock (_lock)
        {
            return string.Concat(_figures.Select(f => string.Create(CultureInfo.InvariantCulture, $", {f.Key} {f.Value:0.####}")));
        }
    }

    private sealed class Running(LineProgress sink, Work work) : IProgressTask
    {
        private readonly Lock _lock = new();
        private TimeSpan _last;
        private bool _ended;

        public void Advance(long units = 1)
        {
            work.Advance(units);
            lock (_lock)
            {
                if (work.Elapsed - _last < Interval)
                {
                    return;
                }

                _last = work.Elapsed;
                // What the work says of itself goes before figures that it also published.
                string detail = work.Detail.Length > 0 ? $", {work.Detail}" : sink.Figures();
                sink.Say($"{work.Name}: {work.Figures()}{detail}");
            }
        }

        public void Describe(string detail) => work.Detail = detail;

        public void Dispose()
        {
            lock (_lock)
            {
                // Work that took no time worth a line says nothing.
                if (!_ended && work.Elapsed > TimeSpan.FromSeconds(1))
                {
                    sink.Say($"{work.Name}: {work.Summary()}");
                }

                _ended = true;
            }
        }
    }
}
