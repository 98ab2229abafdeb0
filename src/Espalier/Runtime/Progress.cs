namespace Espalier.Runtime;

/// <summary>Where long work says how far it is. The console, JSON events and tests each implement it once.</summary>
/// <remarks>Implementations are safe to call from several threads.</remarks>
public interface IProgressSink
{
    /// <summary>Begins a piece of work; dispose what it returns when the work has ended.</summary>
    /// <param name="name">What is being done, for a person ("pruning blocks").</param>
    /// <param name="total">How many units there are; 0 when that is not known.</param>
    /// <param name="unit">One unit ("block", "B", "step").</param>
    IProgressTask Begin(string name, long total, string unit);

    /// <summary>Says one line that a person should read ("resuming after block 3").</summary>
    void Say(string message);

    /// <summary>Warns in one line: the work goes on, but the user should know.</summary>
    void Warn(string message);

    /// <summary>Publishes a figure while the work runs ("loss", 12, 3.4).</summary>
    /// <param name="metric">The name of the figure.</param>
    /// <param name="step">The step or index it belongs to.</param>
    /// <param name="value">Its value.</param>
    void Report(string metric, long step, double value);
}

/// <summary>One running piece of work.</summary>
public interface IProgressTask : IDisposable
{
    /// <summary>Moves on by some units.</summary>
    void Advance(long units = 1);

    /// <summary>Says what is being worked on now ("layer 3 of 12, loss 3.21").</summary>
    void Describe(string detail);
}

/// <summary>Progress that nobody looks at.</summary>
public sealed class SilentProgress : IProgressSink, IProgressTask
{
    /// <summary>The one instance.</summary>
    public static SilentProgress Instance { get; } = new();

    private SilentProgress()
    {
    }

    /// <inheritdoc/>
    public IProgressTask Begin(string name, long total, string unit) => this;

    /// <inheritdoc/>
    public void Say(string message)
    {
    }

    /// <inheritdoc/>
    public void Warn(string message)
    {
    }

    /// <inheritdoc/>
    public void Report(string metric, long step, double value)
    {
    }

    /// <inheritdoc/>
    public void Advance(long units = 1)
    {
    }

    /// <inheritdoc/>
    public void Describe(string detail)
    {
    }

    /// <inheritdoc/>
    public void Dispose()
    {
    }
}
