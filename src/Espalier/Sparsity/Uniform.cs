namespace Espalier.Sparsity;

/// <summary>Every layer gives the same share: the default of the language-model literature.</summary>
public sealed record Uniform : IAllocator
{
    /// <inheritdoc/>
    public IReadOnlyList<double> Allocate(IReadOnlyList<(string Name, long Count)> layers, double sparsity) =>
        [.. layers.Select(_ => sparsity)];
}
