using System.Globalization;
using System.Text;
using Espalier.Runtime;

namespace Espalier.Cli.Display;

/// <summary>Bars at the foot of a terminal, one for each running piece of work, redrawn ten times a second.</summary>
internal sealed class BarProgress : IProgressSink, IDisposable
{
    private const string Accent = "\e[38;5;71m", Faint = "\e[38;5;240m", Plain = "\e[0m", ClearLine = "\r\e[2K";
    private const int BarWidth = 28, NameWidth = 22;

    private readonly TextWriter _error;
    private readonly Func<int> _width;
    private readonly TimeProvider _clock;
    private readonly ITimer _timer;
    private readonly Lock _lock = new();
    private readonly List<Work> _running = [];
    private readonly Dictionary<string, double> _figures = [];
    private int _drawn;
    private bool _ended;

    public BarProgress(TextWriter error, Func<int> width, TimeProvider clock)
    {
        (_error, _width, _clock) = (error, width, clock);
        _timer = clock.CreateTimer(_ => Redraw(), null, TimeSpan.FromMilliseconds(100), TimeSpan.FromMilliseconds(100));
    }

    public IProgressTask Begin(string name, long total, string unit)
    {
        var work = new Work(name, total, unit, _clock);
        lock (_lock)
        {
            _running.Add(work);
        }

        return new Running(this, work);
    }

    public void Say(string message) => Line(message);

    public void Warn(string message) => Line($"\e[33mwarning:{Plain} {message}");

    public void Report(string metric, long step, double value)
    {
        lock (_lock)
        {
            _figures[metric] = value;
        }
    }

    public void Dispose()
    {
        lock (_lock)
        {
            _ended = true;
            Erase();
            _error.Flush();
        }

        _timer.Dispose();
    }

    private void End(Work work)
    {
        lock (_lock)
        {
            if (!_running.Remove(work) || _ended)
            {
                return;
            }

            Erase();
            if (work.Elapsed > TimeSpan.FromSeconds(1))
            {
                _error.WriteLine($"{Accent}✓{Plain} {work.Name}: {work.Summary()}");
            }

            if (_running.Count == 0)
            {
                _figures.Clear();
            }
        }

        Redraw();
    }

    private void Line(string text)
    {
        lock (_lock)
        {
            Erase();
            _error.WriteLine(text);
        }

        Redraw();
    }

    private void Redraw()
    {
        lock (_lock)
        {
            if (_ended)
            {
                return;
            }

            var text = new StringBuilder();
            string figures = string.Concat(_figures.Select(f => string.Create(CultureInfo.InvariantCulture, $"  {f.Key} {f.Value:0.####}")));
            for (int i = 0; i < _running.Count; i++)
            {
                text.Append(ClearLine).Append(Bar(_running[i], i == _running.Count - 1 ? figures : "", Math.Max(_width() - 1, 20))).Append('\n');
            }

            Erase();
            _error.Write(text);
            _error.Flush();
            _drawn = _running.Count;
        }
    }

    private static string Bar(Work work, string figures, int width)
    {
        string name = work.Name.Length > NameWidth ? work.Name[..(NameWidth - 1)] + "…" : work.Name.PadRight(NameWidth);
        string tail = $"  {work.Figures()}{(work.Detail.Length > 0 ? "  " + work.Detail : figures)}";
        int bar = Math.Clamp(width - NameWidth - 1 - tail.Length, 8, BarWidth), room = width - NameWidth - 1 - bar;
        tail = tail.Length > room ? tail[..Math.Max(room - 1, 0)] + "…" : tail;
        int full = work.Share is { } share
            ? (int)(share * bar)
            : (int)(work.Elapsed.TotalSeconds * 8) % bar; // no total: the bar only shows that something moves
        return $"{name} {Accent}{new string('━', full)}{Faint}{new string('━', bar - full)}{Plain}{tail}";
    }

    private void Erase()
    {
        for (; _drawn > 0; _drawn--)
        {
            _error.Write("\e[1A" + ClearLine);
        }
    }

    private sealed class Running(BarProgress sink, Work work) : IProgressTask
    {
        public void Advance(long units = 1) => work.Advance(units);

        public void Describe(string detail) => work.Detail = detail;

        public void Dispose() => sink.End(work);
    }
}
