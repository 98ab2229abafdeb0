using Espalier.Methods.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class SparseGptQuantisingTests
{
    [Theory]
    [InlineData(PackedType.Int8, 12, 40, 0.0)]
    [InlineData(PackedType.Int8, 9, 150, 0.5)]
    [InlineData(PackedType.Int4, 12, 40, 0.5)]
    [InlineData(PackedType.Int4, 9, 150, 0.0)]
    [InlineData(PackedType.Int4, 9, 200, 0.6)]
    public void The_blocked_sweep_gives_the_numbers_of_a_plain_loop_over_columns(PackedType type, long rows, long columns, double sparsity)
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", rows, columns), H = HessianOf(Correlated(400, columns));
        Tensor keep = sparsity == 0 ? ones([rows, columns], ScalarType.Bool) : MaskSelection.KeepLargestPerRow(W.abs(), sparsity, "w");
        Tensor ours = new SparseGpt { Blocksize = 48 }.Update(W, H, keep, grid: type).Weight;
        double[,] plain = Plain(W, H, keep, type, Plain(W, H, keep, type, unrounded: null));
        double largest = 0;
        for (int r = 0; r < rows; r++)
        {
            for (int j = 0; j < columns; j++)
            {
                largest = Math.Max(largest, Math.Abs(plain[r, j] - ours[r, j].item<float>()));
            }
        }

        largest.ShouldBeLessThan(1e-6);
        RequireOnGrid(ours, type);
        ours.masked_select(keep.logical_not()).count_nonzero().item<long>().ShouldBe(0);
    }

    [Theory]
    [InlineData(PackedType.Int8)]
    [InlineData(PackedType.Int4)]
    public void On_correlated_inputs_the_sweep_leaves_less_error_than_rounding_to_the_nearest(PackedType type)
    {
        using var scope = NewDisposeScope();
        Tensor X = Correlated(600, 128), W = Random("W", 32, 128);
        var layer = new LayerContext { Name = "w", Weight = W, Hessian = HessianOf(X) };
        var method = new SparseGpt();
        foreach (double sparsity in (double[])[0, 0.5])
        {
            PrunedLayer pruned = sparsity == 0 ? new PrunedLayer(W, ones_like(W, ScalarType.Bool)) : method.Prune(layer, Pattern.Unstructured(sparsity), sparsity);
            Tensor nearest = new RoundToNearest().Quantise(layer, pruned, type).Weight;
            PrunedLayer joint = method.Prune(layer, Pattern.Unstructured(sparsity), sparsity, type), after = method.Quantise(layer, pruned, type);
            RequireOnGrid(joint.Weight, type);
            RequireOnGrid(nearest, type);
            double reference = Error(X, pruned.Weight, nearest);
            Error(X, pruned.Weight, after.Weight).ShouldBeLessThan(0.6 * reference);
            Error(X, W, joint.Weight).ShouldBeLessThan(1.01 * Error(X, W, nearest)); // beside the error of pruning that of 8 bits does not show
            after.Keep.ShouldBeSameAs(pruned.Keep);
            joint.Weight.masked_select(joint.Keep.logical_not()).count_nonzero().item<long>().ShouldBe(0);
        }
    }

    [Fact]
    public void In_groups_the_pattern_holds_and_weights_lie_on_the_grid()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", 16, 192), H = HessianOf(Correlated(600, 192));
        SparseGptResult result = new SparseGpt().PruneGroups(W, H, 2, 4, grid: PackedType.Int4);
        result.Keep.reshape(-1, 4).sum(1).eq(2).all().item<bool>().ShouldBeTrue();
        RequireOnGrid(result.Weight, PackedType.Int4);
    }

    [Fact]
    public void What_lies_on_a_grid_stays_and_zeros_of_an_earlier_pruning_are_not_filled()
    {
        using var scope = NewDisposeScope();
        Tensor H = HessianOf(Correlated(300, 64)), W = Grid.Round(Random("W", 8, 64).masked_fill(Random("m", 8, 64).gt(0), 0), PackedType.Int4);
        var layer = new LayerContext { Name = "w", Weight = W, Hessian = H };
        var whole = new PrunedLayer(W, ones_like(W, ScalarType.Bool));
        new SparseGpt().Quantise(layer, whole, PackedType.Int4).Weight.equal(W).all().item<bool>().ShouldBeTrue();
        Tensor eight = new SparseGpt().Quantise(layer, new PrunedLayer(W * 1.01 + (W.ne(0) * 0.003), whole.Keep), PackedType.Int8).Weight;
        eight.masked_select(W.eq(0)).count_nonzero().item<long>().ShouldBe(0);
    }

    private static Tensor Random(string purpose, params long[] shape)
    {
        using var generator = new Seed(7).Generator(purpose);
        return randn(shape, generator: generator);
    }

    private static Tensor Correlated(long tokens, long columns) =>
        Random("A", tokens, columns / 4).mm(Random("B", columns / 4, columns)) + (0.3 * Random("E", tokens, columns));

    private static Tensor HessianOf(Tensor X) => X.t().mm(X) * 2;

    private static double Error(Tensor X, Tensor W, Tensor other) => X.mm((W - other).t()).square().mean().item<float>();

    private static void RequireOnGrid(Tensor W, PackedType type)
    {
        using PackedMatrix packed = PackedMatrix.Pack(W.contiguous().data<float>().ToArray(), (int)W.shape[0], (int)W.shape[1], type);
        packed.ToTensor().equal(W).all().item<bool>().ShouldBeTrue();
    }

    /// <summary>One column after the other: round or zero it, and take its error out of every column after it. Scales are those of what the same loop leaves without rounding.</summary>
    private static double[,] Plain(Tensor W, Tensor H, Tensor keep, PackedType type, double[,]? unrounded)
    {
        int rows = (int)W.shape[0], columns = (int)W.shape[1], group = type is PackedType.Int8 ? columns : 64, most = type is PackedType.Int8 ? 127 : 7;
        Tensor damped = H.to(ScalarType.Float64).clone();
        damped.diagonal().add_(0.01 * damped.diagonal().mean());
        Tensor U = linalg.cholesky(linalg.inv(damped)).t().contiguous();
        double[] u = U.data<double>().ToArray(), dense = W.to(ScalarType.Float64).contiguous().data<double>().ToArray();
        bool[] kept = keep.contiguous().data<bool>().ToArray();
        var result = new double[rows, columns];
        for (int r = 0; r < rows; r++)
        {
            double[] w = dense[(r * columns)..((r + 1) * columns)];
            float scale = 0;
            for (int j = 0; j < columns; j++)
            {
                if (j % group == 0 && unrounded is not null)
                {
                    scale = Grid.Scale(type, [.. Enumerable.Range(j, Math.Min(group, columns - j)).Select(k => (float)unrounded[r, k])]);
                }

                double code = unrounded is null ? 0 : Math.Clamp(Math.Round(w[j] / scale), type is PackedType.Int8 ? -127 : -8, most);
                result[r, j] = kept[(r * columns) + j] ? unrounded is null ? w[j] : code * scale : 0;
                double error = (w[j] - result[r, j]) / u[(j * columns) + j];
                for (int k = j; k < columns; k++)
                {
                    w[k] -= error * u[(j * columns) + k];
                }
            }
        }

        return result;
    }
}
