using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>Another adapter under a mask: W_eff = M∘Weight(W), in every forward pass and in merging, so that what is trained is what is merged and no pruned weight comes back.</summary>
/// <param name="inner">The adapter; disposed with this one.</param>
/// <param name="keep">M [out, in·k·k], bool: true stays; copied.</param>
public sealed class MaskedAdapter(ILinearAdapter inner, Tensor keep) : ILinearAdapter
{
    private readonly Tensor _pruned = keep.logical_not().DetachFromDisposeScope();

    /// <summary>The adapter under the mask.</summary>
    public ILinearAdapter Inner { get; } = inner;

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Parameter Value)> Parameters => Inner.Parameters;

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> Stored => Inner.Stored;

    /// <inheritdoc/>
    public bool KeepsZeros => true;

    /// <inheritdoc/>
    public Tensor Weight(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        return Inner.Weight(matrix).masked_fill(_pruned, 0).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Inner.Dispose();
        _pruned.Dispose();
    }
}
