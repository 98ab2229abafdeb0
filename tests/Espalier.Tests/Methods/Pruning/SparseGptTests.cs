using Espalier.Methods.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class SparseGptTests
{
    private static Tensor Random(string purpose, params long[] shape)
    {
        using var generator = new Seed(7).Generator(purpose);
        return randn(shape, generator: generator);
    }

    /// <summary>Inputs [tokens, C] of low rank with some noise, so that there is something to compensate with.</summary>
    private static Tensor Correlated(long tokens, long columns) =>
        Random("A", tokens, columns / 4).mm(Random("B", columns / 4, columns)) + (0.3 * Random("E", tokens, columns));

    private static Tensor HessianOf(Tensor X) => X.t().mm(X) * 2;

    private static double OutputError(Tensor X, Tensor W, Tensor pruned) => X.mm((W - pruned).t()).square().mean().item<float>();

    /// <summary>Steps 4 to 7 as they stand, column by column over the whole matrix: the yardstick for the blocked sweep.</summary>
    private static (Tensor W, Tensor Keep, Tensor Losses) Published(Tensor W, Tensor H, double sparsity, int pruneN, int m, int blocksize, double percdamp)
    {
        long R = W.shape[0], C = W.shape[1];
        Tensor w = W.to(ScalarType.Float64).clone(), h = H.to(ScalarType.Float64).clone();
        Tensor dead = h.diagonal().eq(0);
        h.diagonal().masked_fill_(dead, 1);
        w.masked_fill_(dead, 0);
        h.diagonal().add_(percdamp * h.diagonal().mean());
        Tensor U = linalg.cholesky(linalg.inv(h)).t(); // the upper factor: H⁻¹ = UᵀU
        Tensor keep = ones([R, C], ScalarType.Bool), losses = zeros([R], ScalarType.Float64);
        for (long start = 0; start < C; start += blocksize)
        {
            long end = Math.Min(C, start + blocksize);
            if (pruneN == 0)
            {
                Tensor score = w.narrow(1, start, end - start).square() / U.diagonal().narrow(0, start, end - start).square();
                Tensor sorted = score.flatten().sort(0).Values;
                keep.narrow(1, start, end - start).copy_(score > sorted[(long)Math.Floor(score.numel() * sparsity)]);
            }

            Tensor errors = zeros([R, end - start], ScalarType.Float64);
            for (long i = start; i < end; i++)
            {
                if (pruneN > 0 && (i - start) % m == 0)
                {
                    Tensor score = w.narrow(1, i, m).square() / U.diagonal().narrow(0, i, m).square();
                    Tensor order = score.sort(1, stable: true).Indices.narrow(1, 0, pruneN);
                    keep.narrow(1, i, m).scatter_(1, order, zeros([R, pruneN], ScalarType.Bool));
                }

                Tensor column = w.narrow(1, i, 1).clone();
                Tensor q = column.masked_fill(keep.narrow(1, i, 1).logical_not(), 0);
                Tensor error = (column - q) / U[i, i];
                losses += error.square().squeeze(1) / 2;
                w.narrow(1, i, end - i).sub_(error.mm(U[i].narrow(0, i, end - i).unsqueeze(0)));
                w.narrow(1, i, 1).copy_(q);
                errors.narrow(1, i - start, 1).copy_(error);
            }

            if (end < C)
            {
                w.narrow(1, end, C - end).sub_(errors.mm(U.narrow(0, start, end - start).narrow(1, end, C - end)));
            }
        }

        return (w, keep, losses);
    }

    [Theory]
    [InlineData(20, 40, 128, 0, 0)]
    [InlineData(33, 48, 16, 0, 0)]
    [InlineData(17, 45, 16, 0, 0)]
    [InlineData(40, 64, 16, 2, 4)]
    [InlineData(16, 24, 100, 1, 3)]
    [InlineData(5, 24, 8, 4, 8)]
    public void The_blocked_sweep_gives_the_numbers_of_the_published_loop(long rows, long columns, int blocksize, int pruneN, int m)
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", rows, columns), H = HessianOf(Correlated(200, columns));
        H.narrow(0, 3, 1).zero_();
        H.narrow(1, 3, 1).zero_(); // one dead input
        var method = new SparseGpt { Blocksize = blocksize };
        SparseGptResult ours = pruneN > 0 ? method.PruneGroups(W, H, pruneN, m) : method.PruneFreely(W, H, 0.55);
        (Tensor w, Tensor keep, Tensor losses) = Published(W, H, 0.55, pruneN, m, blocksize, 0.01);
        ours.Keep.equal(keep).all().item<bool>().ShouldBeTrue();
        (ours.Weight - w).abs().max().item<double>().ShouldBeLessThan(1e-5);
        (ours.LossRows - losses).abs().max().item<double>().ShouldBeLessThan(1e-5 * losses.max().item<double>());
        ours.DeadColumns.ShouldBe(1);
        ours.LossRows.min().item<double>().ShouldBeGreaterThanOrEqualTo(0);
    }

    /// <summary>Above 2¹⁸ weights the sweep runs in float32.</summary>
    [Fact]
    public void In_float32_the_sweep_agrees_too()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", 1100, 256), H = HessianOf(Correlated(600, 256));
        SparseGptResult ours = new SparseGpt().PruneFreely(W, H, 0.5);
        (Tensor w, Tensor keep, _) = Published(W, H, 0.5, 0, 0, 128, 0.01);
        double flipped = ours.Keep.ne(keep).sum().item<long>();
        flipped.ShouldBeLessThan(20); // of 281,600: scores within rounding of a threshold
        ((ours.Weight - w).square().mean() / w.square().mean()).item<double>().ShouldBeLessThan(1e-4);
    }

    [Fact]
    public void A_diagonal_Hessian_compensates_nothing_and_scores_as_Wanda_squared()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", 8, 12), diagonal = Random("d", 12).square() + 0.1;
        var method = new SparseGpt { Percdamp = 0 };
        SparseGptResult result = method.PruneFreely(W, diag(diagonal), 0.5);
        (result.Weight - MaskSelection.Apply(W, result.Keep)).abs().max().item<float>().ShouldBe(0);
        Tensor score = method.Score(new LayerContext { Name = "w", Weight = W, Hessian = diag(diagonal) });
        (score - W.square() * diagonal).abs().max().item<float>().ShouldBeLessThan(1e-5f);
    }

    [Fact]
    public void With_a_given_mask_the_block_size_does_not_matter_and_a_full_mask_changes_nothing()
    {
        using var scope = NewDisposeScope();
        Tensor X = Correlated(300, 40), W = Random("W", 10, 40), H = HessianOf(X);
        Tensor keep = MaskSelection.KeepLargestPerRow(W.abs(), 0.6, "w");
        Tensor whole = new SparseGpt { Blocksize = 64 }.Update(W, H, keep).Weight;
        foreach (int blocksize in (int[])[1, 7, 16, 40])
        {
            (new SparseGpt { Blocksize = blocksize }.Update(W, H, keep).Weight - whole).abs().max().item<float>().ShouldBeLessThan(1e-5f);
        }

        new SparseGpt().Update(W, H, ones_like(keep)).Weight.equal(W).all().item<bool>().ShouldBeTrue();
        OutputError(X, W, whole).ShouldBeLessThan(OutputError(X, W, MaskSelection.Apply(W, keep)));
        PrunedLayer repaired = new SparseGpt().Repair(new LayerContext { Name = "w", Weight = W, Hessian = H }, new PrunedLayer(MaskSelection.Apply(W, keep), keep), Pattern.Unstructured(0.6));
        (repaired.Weight - whole).abs().max().item<float>().ShouldBeLessThan(1e-5f);
        repaired.Weight.masked_select(keep.logical_not()).count_nonzero().item<long>().ShouldBe(0);
    }

    [Fact]
    public void Permuting_rows_permutes_an_NM_result()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", 6, 16), H = HessianOf(Correlated(100, 16)), order = tensor(new long[] { 5, 3, 0, 1, 2, 4 });
        SparseGptResult once = new SparseGpt().PruneGroups(W, H, 2, 4);
        new SparseGpt().PruneGroups(W[order], H, 2, 4).Weight.equal(once.Weight[order]).all().item<bool>().ShouldBeTrue();
        MaskSelection.IsSemiStructured(once.Keep, 2, 4).ShouldBeTrue();
    }

    /// <summary>Set-up S of the method's card: inputs with structure, where compensation must pay.</summary>
    [Theory]
    [InlineData(0.5, 0)]
    [InlineData(0.7, 0)]
    [InlineData(0.5, 3)]
    [InlineData(0.7, 3)]
    public void On_correlated_inputs_its_output_error_is_below_six_tenths_of_Wandas(double sparsity, int mean)
    {
        for (long seed = 0; seed < 3; seed++)
        {
            using var scope = NewDisposeScope();
            using var generator = new Seed(seed).Generator("set-up S");
            Tensor Draw(params long[] shape) => randn(shape, generator: generator);
            Tensor W = 0.1 * Draw(48, 64);
            Tensor X = (0.4 * Draw(2000, 12).mm(Draw(12, 64))) + (0.25 * Draw(2000, 64)) + (mean * Draw(64));
            var layer = new LayerContext { Name = "w", Weight = W, InputNorms = X.square().sum(0), Hessian = HessianOf(X) };
            Tensor wanda = MaskSelection.Apply(W, MaskSelection.Choose(new Wanda(), layer, Pattern.Unstructured(sparsity), Scope.Default, sparsity));
            Tensor swept = new SparseGpt().Prune(layer, Pattern.Unstructured(sparsity), sparsity).Weight;
            (OutputError(X, W, swept) / OutputError(X, W, wanda)).ShouldBeLessThan(0.6);
        }
    }

    [Fact]
    public void A_singular_Hessian_is_damped_more_and_says_so_and_an_indefinite_one_is_refused()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", 3, 6), x = Random("x", 1, 6);
        SparseGptResult result = new SparseGpt { Percdamp = 0 }.PruneFreely(W, HessianOf(x), 0.5);
        result.Damping.ShouldBeGreaterThan(0);
        result.Weight.isfinite().all().item<bool>().ShouldBeTrue();
        Tensor indefinite = eye(6) + 5 * (ones(6, 6) - eye(6));
        Should.Throw<EspalierException>(() => new SparseGpt().PruneFreely(W, indefinite, 0.5, "up_proj")).Message.ShouldContain("up_proj");
    }

    [Fact]
    public void Bad_input_is_refused_with_a_sentence()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", 3, 6), H = HessianOf(Correlated(50, 6) + Random("more", 50, 6));
        var method = new SparseGpt();
        Should.Throw<EspalierException>(() => method.PruneFreely(W, ones(6, 5), 0.5));
        Should.Throw<EspalierException>(() => method.PruneFreely(W, ones(5, 5), 0.5)).Message.ShouldContain("as wide as the weight");
        Should.Throw<EspalierException>(() => method.PruneFreely(W, H + Random("skew", 6, 6), 0.5)).Message.ShouldContain("symmetric");
        Should.Throw<EspalierException>(() => method.PruneFreely(W, H * float.NaN, 0.5)).Message.ShouldContain("NaN");
        Should.Throw<EspalierException>(() => method.PruneFreely(W * float.NaN, H, 0.5)).Message.ShouldContain("NaN");
        Should.Throw<EspalierException>(() => method.PruneFreely(W, H, 1));
        Should.Throw<EspalierException>(() => new SparseGpt { Blocksize = 3 }.PruneGroups(W, H, 1, 2)).Message.ShouldContain("multiple of 2");
        Should.Throw<EspalierException>(() => method.PruneGroups(W, H, 3, 2));
        Should.Throw<EspalierException>(() => method.Update(W, H, ones(3, 5)));
        Should.Throw<EspalierException>(() => new SparseGpt { HessianLimit = 100 }.PruneFreely(W, H, 0.5)).Message.ShouldContain("Wanda");
        Should.Throw<EspalierException>(() => new SparseGpt { Blocksize = 0 });
        Should.Throw<EspalierException>(() => new SparseGpt { Percdamp = -1 });
        Should.Throw<EspalierException>(() => method.Prune(new LayerContext { Name = "w", Weight = W, Hessian = H }, Pattern.SemiStructured(2, 4), 0.5)).Message.ShouldContain("groups of 4");
    }
}
