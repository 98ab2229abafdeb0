using System.Text.Json;
using Espalier.Cli.Display;
using Espalier.Runtime;

namespace Espalier.Tests.Cli;

public sealed class ProgressTests
{
    /// <summary>A clock that goes only when told.</summary>
    private sealed class SteppedClock : TimeProvider
    {
        private long _ticks;

        public override long TimestampFrequency => TimeSpan.TicksPerSecond;

        public override long GetTimestamp() => Interlocked.Read(ref _ticks);

        public void Pass(double seconds) => Interlocked.Add(ref _ticks, (long)(seconds * TimeSpan.TicksPerSecond));

        public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period) => new Stopped();

        private sealed class Stopped : ITimer
        {
            public bool Change(TimeSpan dueTime, TimeSpan period) => true;

            public void Dispose()
            {
            }

            public ValueTask DisposeAsync() => ValueTask.CompletedTask;
        }
    }

    [Fact]
    public void In_a_log_a_line_comes_every_ten_seconds_with_rate_and_remaining_time()
    {
        var (clock, text) = (new SteppedClock(), new StringWriter());
        var progress = new LineProgress(text, quiet: false, clock);
        using (IProgressTask task = progress.Begin("pruning", 30, "block"))
        {
            for (int i = 0; i < 30; i++)
            {
                clock.Pass(1);
                task.Advance();
            }
        }

        text.ToString().ReplaceLineEndings("\n").ShouldBe("""
            pruning: 10/30 blocks, 1 blocks/s, 20 s left
            pruning: 20/30 blocks, 1 blocks/s, 10 s left
            pruning: 30/30 blocks, 1 blocks/s
            pruning: 30 blocks in 30 s (1 blocks/s)

            """.ReplaceLineEndings("\n"));
    }

    [Fact]
    public void Quiet_keeps_warnings_only()
    {
        var text = new StringWriter();
        var progress = new LineProgress(text, quiet: true, new SteppedClock());
        progress.Say("nothing");
        progress.Warn("look out");
        text.ToString().Trim().ShouldBe("warning: look out");
    }

    [Fact]
    public void Short_work_says_nothing()
    {
        var (clock, text) = (new SteppedClock(), new StringWriter());
        using (new LineProgress(text, quiet: false, clock).Begin("blink", 1, "step"))
        {
            clock.Pass(0.2);
        }

        text.ToString().ShouldBeEmpty();
    }

    [Fact]
    public async Task Json_events_from_many_threads_stay_whole_lines()
    {
        var text = new StringWriter();
        var progress = new JsonProgress(text, TimeProvider.System);
        await Parallel.ForAsync(0, 16, (i, _) =>
        {
            using IProgressTask task = progress.Begin($"work {i}", 50, "step");
            for (int k = 0; k < 50; k++)
            {
                task.Advance();
                progress.Report("loss", k, double.NaN);
            }

            return ValueTask.CompletedTask;
        });
        JsonElement[] events = [.. text.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(l => JsonDocument.Parse(l).RootElement)];
        events.Count(e => e.GetProperty("event").GetString() == "begin").ShouldBe(16);
        events.Count(e => e.GetProperty("event").GetString() == "end").ShouldBe(16);
        events.Where(e => e.GetProperty("event").GetString() == "end").ShouldAllBe(e => e.GetProperty("done").GetInt64() == 50);
    }

    [Fact]
    public void Bars_are_erased_before_a_line_is_said_and_fit_the_terminal()
    {
        var (clock, text) = (new SteppedClock(), new StringWriter());
        using (var progress = new BarProgress(text, () => 60, clock))
        {
            using IProgressTask task = progress.Begin("a very long name of some piece of work", 10, "step");
            clock.Pass(2);
            task.Advance(5);
            task.Describe(new string('x', 200));
            progress.Say("hello");
        }

        string[] lines = text.ToString().Split('\n');
        lines.ShouldContain("hello");
        string bar = lines.First(l => l.Contains("━"));
        System.Text.RegularExpressions.Regex.Replace(bar, "\e\\[[0-9;]*[a-zA-Z]|\r", "").Length.ShouldBeLessThan(60);
        text.ToString().ShouldContain("\e[1A");
    }
}
