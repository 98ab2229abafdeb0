using Espalier.Runtime;

namespace Espalier.Tests.Pruning;

/// <summary>Keeps what is said.</summary>
internal sealed class Heard(Action<string>? also = null) : IProgressSink
{
    public List<string> Said { get; } = [];

    public IProgressTask Begin(string name, long total, string unit) => SilentProgress.Instance;

    public void Say(string message)
    {
        Said.Add(message);
        also?.Invoke(message);
    }

    public void Warn(string message) => Said.Add(message);

    public void Report(string metric, long step, double value)
    {
    }
}
