namespace Espalier.Runtime;

/// <summary>Passes progress on and remembers the warnings, so that a report can show them again.</summary>
/// <param name="inner">Where progress is told.</param>
public sealed class WarningLog(IProgressSink inner) : IProgressSink
{
    private readonly List<string> _warnings = [];

    /// <summary>The warnings so far.</summary>
    public IReadOnlyList<string> Warnings
    {
        get
        {
            lock (_warnings)
            {
                return [.. _warnings];
            }
        }
    }

    /// <inheritdoc/>
    public IProgressTask Begin(string name, long total, string unit) => inner.Begin(name, total, unit);

    /// <inheritdoc/>
    public void Say(string message) => inner.Say(message);

    /// <inheritdoc/>
    public void Warn(string message)
    {
        lock (_warnings)
        {
            _warnings.Add(message);
        }

        inner.Warn(message);
    }

    /// <inheritdoc/>
    public void Report(string metric, long step, double value) => inner.Report(metric, step, value);
}
