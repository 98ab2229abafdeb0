using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>
/// Watches what enters the last map of a feed-forward part (x1 of a gated one, the activations of a plain one): keeps its
/// L1 norm with the graph for the loss, and counts zeros and dead neurons. Dispose it to stop watching.
/// </summary>
public sealed class ActivationTap : IDisposable
{
    private readonly Models.Linear _down;
    private readonly Action<Tensor>? _before;
    private readonly Action<Tensor> _observer;
    private Tensor? _l1;
    private Tensor? _seen; // [F], bool: active at least once
    private long _zeros, _entries;

    /// <summary>Starts watching.</summary>
    /// <param name="down">The last map of the feed-forward part (<c>mlp.down_proj</c>).</param>
    public ActivationTap(Models.Linear down)
    {
        (_down, _before, _observer) = (down, down.InputObserver, Observe);
        down.InputObserver = _observer;
    }

    /// <summary>Which tokens of the next forward pass count, [batch, tokens], bool; null for all. Padding must not.</summary>
    public Tensor? Tokens { get; set; }

    /// <summary>The share of exact zeros since the last <see cref="Reset"/>, in [0, 1].</summary>
    public double Sparsity => _entries == 0 ? 0 : (double)_zeros / _entries;

    /// <summary>How many neurons were active for no token since the last <see cref="Reset"/>.</summary>
    public long DeadNeurons
    {
        get
        {
            using Tensor? alive = _seen?.sum();
            return alive is null ? 0 : _seen!.numel() - alive.item<long>();
        }
    }

    /// <summary>The L1 norm of the last forward pass, with its graph, in the caller's scope; it is handed out once.</summary>
    /// <exception cref="EspalierException">When no forward pass went through since.</exception>
    public Tensor Take()
    {
        using Tensor taken = _l1 ?? throw new EspalierException("The feed-forward part was not run since its activations were last taken; run the model, then form the loss.");
        _l1 = null;

        // A handle that belongs to the caller's scope, on the same graph.
        return taken.alias();
    }

    /// <summary>Forgets the counts.</summary>
    public void Reset()
    {
        _seen?.Dispose();
        (_seen, _zeros, _entries) = (null, 0, 0);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        // Another observer may have been attached since; it is then left in place.
        if (_down.InputObserver == _observer)
        {
            _down.InputObserver = _before;
        }

        _l1?.Dispose();
        _l1 = null;
        Reset();
    }

    private void Observe(Tensor x1)
    {
        _before?.Invoke(x1);
        _l1?.Dispose();
        _l1 = ProSparse.ActivationL1(x1, Tokens).DetachFromDisposeScope();
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor active = x1.detach().ne(0).reshape(-1, x1.shape[^1]);
        if (Tokens is { } tokens)
        {
            active = active.index_select(0, tokens.reshape(-1).nonzero().reshape(-1));
        }

        _entries += active.numel();
        _zeros += active.numel() - active.sum().item<long>();
        Tensor seen = _seen is null ? active.any(0) : active.any(0).logical_or(_seen);
        _seen?.Dispose();
        _seen = seen.DetachFromDisposeScope();
    }
}
