using System.Globalization;
using Espalier.Runtime;

namespace Espalier.Cli.Display;

/// <summary>How far one running piece of work is, and how fast.</summary>
internal sealed class Work(string name, long total, string unit, TimeProvider clock)
{
    private readonly long _start = clock.GetTimestamp();
    private readonly Queue<(TimeSpan At, long Done)> _recent = new();
    private long _done;

    public string Name => name;

    public long Total => total;

    public string Unit => unit;

    public long Done => Interlocked.Read(ref _done);

    public string Detail { get; set; } = "";

    public TimeSpan Elapsed => clock.GetElapsedTime(_start);

    /// <summary>The share done, or null where the total is not known.</summary>
    public double? Share => total > 0 ? Math.Clamp((double)Done / total, 0, 1) : null;

    public void Advance(long units) => Interlocked.Add(ref _done, units);

    /// <summary>Units per second over about the last ten seconds; the first ones are often slower (loading, warming up).</summary>
    public double Rate()
    {
        TimeSpan now = Elapsed;
        long done = Done;
        if (_recent.Count == 0)
        {
            _recent.Enqueue((TimeSpan.Zero, 0));
        }

        _recent.Enqueue((now, done));
        while (_recent.Count > 2 && now - _recent.Peek().At > TimeSpan.FromSeconds(10))
        {
            _recent.Dequeue();
        }

        var (at, then) = _recent.Peek();
        double seconds = (now - at).TotalSeconds;
        return seconds > 0 ? (done - then) / seconds : 0;
    }

    /// <summary>"7/12 blocks, 3.2 blocks/s, 2 s left".</summary>
    public string Figures()
    {
        double rate = Rate();
        var parts = new List<string> { Count() };
        if (rate > 0 && Done > 0)
        {
            parts.Add($"{Quantity(rate)}/s");
            if (total > Done)
            {
                parts.Add($"{Text.Duration(TimeSpan.FromSeconds(Math.Min((total - Done) / rate, 1e9)))} left");
            }
        }

        return string.Join(", ", parts);
    }

    /// <summary>"12 blocks in 4 s (3.2 blocks/s)".</summary>
    public string Summary()
    {
        double seconds = Elapsed.TotalSeconds;
        string pace = seconds > 0 && Done > 1 ? $" ({Quantity(Done / seconds)}/s)" : "";
        return $"{Amount(Done)} in {Text.Duration(Elapsed)}{pace}";
    }

    private string Count() => total <= 0 ? Amount(Done)
        : unit == "B" ? $"{Text.Bytes(Done)} of {Text.Bytes(total)}"
        : string.Create(CultureInfo.InvariantCulture, $"{Done}/{total} {Plural(total)}");

    private string Amount(long count) => unit == "B" ? Text.Bytes(count) : string.Create(CultureInfo.InvariantCulture, $"{count} {Plural(count)}");

    private string Quantity(double rate) => unit == "B" ? Text.Bytes((long)rate)
        : string.Create(CultureInfo.InvariantCulture, $"{(rate >= 100 ? rate.ToString("0", CultureInfo.InvariantCulture) : rate.ToString("0.##", CultureInfo.InvariantCulture))} {Plural(2)}");

    private string Plural(long count) => count == 1 || unit.EndsWith('s') ? unit
        : unit.EndsWith("ch", StringComparison.Ordinal) || unit.EndsWith('x') ? unit + "es"
        : unit + "s";
}
