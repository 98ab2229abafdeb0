using CsCheck;
using Espalier.Sparsity;

namespace Espalier.Tests.Sparsity;

public sealed class AllocatorTests
{
    private static readonly Gen<AllocatedLayer[]> anyLayers =
        Gen.Select(Gen.Long[8, 64], Gen.Long[8, 64], (rows, columns) => new AllocatedLayer("w", 0, rows, columns)).Array[1, 12];

    [Fact]
    public void Erk_meets_the_budget_within_a_rounding_per_layer_and_removes_no_layer() =>
        Gen.Select(anyLayers, Gen.Double[0, 0.95]).Sample((layers, sparsity) =>
        {
            IReadOnlyList<double> shares = new Erk().Allocate(layers, sparsity);
            double removed = shares.Zip(layers, (s, l) => s * l.Count).Sum();
            shares.ShouldAllBe(s => s >= 0 && s < 1);
            removed.ShouldBe(layers.Sum(l => l.Count) * sparsity, layers.Length + 1);
        });

    [Fact]
    public void Erk_keeps_density_in_proportion_to_the_dimensions_over_the_size()
    {
        AllocatedLayer[] layers = [new("a", 0, 100, 100), new("b", 0, 100, 400)];
        IReadOnlyList<double> shares = new Erk().Allocate(layers, 0.8);
        double a = (1 - shares[0]) * 10_000 / 200, b = (1 - shares[1]) * 40_000 / 500;
        a.ShouldBe(b, 0.02);
        new Erk().Allocate([layers[0], layers[0]], 0.5).ShouldAllBe(s => Math.Abs(s - 0.5) < 1e-3);
    }

    [Fact]
    public void A_layer_that_would_be_denser_than_dense_stays_dense() =>
        new Erk().Allocate([new("small", 0, 4, 4), new("large", 0, 400, 400)], 0.5)[0].ShouldBe(0);
}
