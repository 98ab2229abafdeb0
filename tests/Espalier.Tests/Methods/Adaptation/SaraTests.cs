using Espalier.Methods.Adaptation;
using Espalier.Runtime;
using Espalier.Training;
using Espalier.Verification;
using TorchSharp.Modules;
using static TorchSharp.torch;
using Parameters = Espalier.Models.Parameters;

namespace Espalier.Tests.Methods.Adaptation;

public sealed partial class SaraTests
{
    private static Tensor Random(string purpose, params long[] shape)
    {
        using Generator generator = new Seed(3).Generator(purpose);
        return randn(shape, generator: generator);
    }

    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "sara")).Lines).ShouldBe("sara: 13/13");

    [Fact]
    public void The_threshold_of_a_ratio_selects_that_many_without_ties()
    {
        using var scope = NewDisposeScope();
        Tensor[] pool = [Random("a", 7, 9), Random("b", 5)];
        foreach (double ratio in (double[])[0, 0.1, 0.33, 0.5, 1])
        {
            double threshold = Sara.ThresholdFor(pool, ratio);
            pool.Sum(t => Sara.Select(t, threshold).sum().item<long>()).ShouldBe((long)Math.Floor(ratio * 68));
        }

        Sara.Select(ones(4), Sara.ThresholdFor([ones(4)], 0.5)).sum().item<long>().ShouldBe(0, "entries at the threshold stay out");
    }

    [Fact]
    public void Packed_and_dense_train_the_same_and_leave_the_rest_alone_to_the_bit()
    {
        using var scope = NewDisposeScope();
        Tensor start = Random("w", 8, 6);
        (Tensor packed, long state) = Train(true);
        (Tensor dense, long all) = Train(false);
        packed.bytes.ToArray().ShouldBe(dense.bytes.ToArray());
        Tensor outside = Sara.Select(start, 0.5).logical_not();
        packed.masked_select(outside).bytes.ToArray().ShouldBe(start.masked_select(outside).bytes.ToArray());
        packed.eq(start).sum().item<long>().ShouldBeLessThan(48);
        all.ShouldBe(96);
        state.ShouldBeLessThan(all);

        (Tensor, long) Train(bool pack)
        {
            using Parameter w = Parameters.Of(start.clone());
            using var optimizer = new SaraOptimizer([new OptimizedParameter("w", w)], new Dictionary<string, Tensor> { ["w"] = Sara.Select(w, 0.5) }, packed: pack);
            for (int step = 0; step < 6; step++)
            {
                if (step == 3)
                {
                    long before = optimizer.Selected;
                    optimizer.Shrink(0.5);
                    optimizer.Selected.ShouldBeLessThan(before);
                }

                w.grad = Random($"g{step}", 8, 6);
                optimizer.Step(0.1);
            }

            return (w.detach().clone(), optimizer.StateCount);
        }
    }

    [Fact]
    public void A_saved_state_goes_on_to_the_same_bytes()
    {
        using var scope = NewDisposeScope();
        using Parameter one = Parameters.Of(Random("w", 8, 6)), two = Parameters.Of(Random("w", 8, 6));
        var masks = new Dictionary<string, Tensor> { ["w"] = Sara.Select(one, 0.5) };
        using SaraOptimizer first = new([new OptimizedParameter("w", one)], masks), second = new([new OptimizedParameter("w", two)], masks);
        Steps(first, one, 0, 3);
        first.Shrink(0.5);
        using (no_grad())
        {
            two.copy_(one);
        }

        second.LoadState(first.SaveState().ToDictionary(s => s.Name, s => s.Value.clone()));
        Steps(first, one, 3, 6);
        Steps(second, two, 3, 6);
        two.detach().bytes.ToArray().ShouldBe(one.detach().bytes.ToArray());

        static void Steps(SaraOptimizer optimizer, Parameter w, int from, int to)
        {
            for (int step = from; step < to; step++)
            {
                w.grad = Random($"g{step}", 8, 6);
                optimizer.Step(0.1);
            }
        }
    }

    [Fact]
    public void The_nuclear_gradient_is_that_of_the_norm()
    {
        using var scope = NewDisposeScope();
        Tensor p = Random("p", 5, 4), mask = Random("m", 5, 4).gt(-0.5);
        (double loss, Tensor gradient) = Sara.NuclearNorm(p, mask, 0.7);
        Tensor step = 1e-3 * Random("d", 5, 4);
        double moved = Sara.NuclearNorm(p + step, mask, 0.7).Loss;
        (moved - loss).ShouldBe((gradient * step).sum().item<float>(), 2e-5);
        gradient.masked_select(mask.logical_not()).count_nonzero().item<long>().ShouldBe(0);
        Sara.NuclearNorm(zeros(3, 3), ones(3, 3), 1).Gradient.count_nonzero().item<long>().ShouldBe(0);
    }

    [Fact]
    public void What_is_impossible_is_a_sentence()
    {
        using var scope = NewDisposeScope();
        Should.Throw<EspalierException>(() => new Sara { Threshold = 0 }).Message.ShouldContain("threshold is 0");
        Should.Throw<EspalierException>(() => new Sara { Ratio = 2 }).Message.ShouldContain("ratio is 2");
        Should.Throw<EspalierException>(() => new Sara { LambdaRank = -1 }).Message.ShouldContain("lambda_rank is -1");
        Should.Throw<EspalierException>(() => new Sara { ProgressiveStep = -2 }).Message.ShouldContain("progressive_step is -2");
        Should.Throw<EspalierException>(() => Sara.Select(full([3], double.NaN), 1)).Message.ShouldContain("NaN");
        Should.Throw<EspalierException>(() => Sara.PackedLinear(ones(1, 2), ones(3, 2), ones(3, 2, dtype: ScalarType.Bool), ones(4))).Message.ShouldContain("6 entries, but 4");
    }
}
