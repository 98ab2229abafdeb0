using System.Diagnostics;

namespace Espalier.Training;

/// <summary>Tokens per second between two looks.</summary>
internal sealed class Throughput(ITrainingObjective objective, Stopwatch clock)
{
    private long _tokens = objective.Tokens;
    private TimeSpan _time = clock.Elapsed;

    /// <summary>The rate since the look before; null where the objective counts none.</summary>
    public double? TokensPerSecond()
    {
        (long tokens, TimeSpan time) = (objective.Tokens - _tokens, clock.Elapsed - _time);
        (_tokens, _time) = (objective.Tokens, clock.Elapsed);
        return tokens == 0 || time <= TimeSpan.Zero ? null : tokens / time.TotalSeconds;
    }
}
