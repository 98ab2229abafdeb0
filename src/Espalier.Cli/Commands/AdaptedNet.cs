using Espalier.Training;

namespace Espalier.Cli.Commands;

/// <summary>A net in memory with adapters: folded into its weights, or one beside them that cannot be.</summary>
/// <param name="net">The net; disposed with this.</param>
/// <param name="beside">The adapter on it; taken off and disposed before the net. Null where there is none, or all were folded in.</param>
internal sealed class AdaptedNet<T>(T net, IAdaptationRun? beside) : IDisposable
    where T : IDisposable
{
    public T Net => net;

    /// <summary>Whether an adapter is attached, so that the net's tensors alone do not say what it computes.</summary>
    public bool IsAttached => beside is not null;

    public void Dispose()
    {
        beside?.Dispose();
        net.Dispose();
    }
}
