using Espalier.Catalogue;
using Espalier.Methods.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class GblmTests
{
    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "gblm")).Lines).ShouldBe("gblm: 6/6");

    [Fact]
    public void Without_gradients_the_mask_is_Wandas()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(1, 6, 20), s = Random(2, 20).abs();
        Tensor ours = MaskSelection.KeepLargestPerRow(Gblm.Score(W, s, zeros(6, 20)), 0.37, "W");
        ours.eq(MaskSelection.KeepLargestPerRow(Wanda.Score(W, s), 0.37, "W")).all().item<bool>().ShouldBeTrue();
        ours.logical_not().sum(1).eq(7).all().item<bool>().ShouldBeTrue();
        Gblm.PrunedOverlap(ours, ours).ShouldBe(1);
        Gblm.PrunedOverlap(ours, ours.logical_not()).ShouldBe(0);
    }

    [Fact]
    public void Without_activations_the_mask_is_that_of_gradients_alone()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(1, 6, 20), G = Random(2, 6, 20).abs();
        Gblm.Score(W, zeros(20), G).eq(Gblm.Score(W, null, G, GblmMode.Gradient)).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Norms_are_ordered_scale_and_forget_the_order_of_samples()
    {
        using var scope = NewDisposeScope();
        Tensor g = Random(3, 7, 4, 5);
        (Tensor l1, Tensor l2) = Gblm.GradientNorms(g, 100);
        (l1 - l2).min().item<float>().ShouldBeGreaterThanOrEqualTo(-1e-3f);
        (l2 - (g * 100).abs().amax([0L])).min().item<float>().ShouldBeGreaterThanOrEqualTo(-1e-3f);
        (Tensor r1, Tensor r2) = Gblm.GradientNorms(g.flip(0), 300);
        r1.allclose(l1 * 3, 1e-5).ShouldBeTrue();
        r2.allclose(l2 * 3, 1e-5).ShouldBeTrue();
    }

    [Fact]
    public void The_default_scale_makes_both_medians_equal()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(1, 9, 11), s = Random(2, 11).square(), G = Random(3, 9, 11).abs() * 1e-5;
        GblmBalance balance = Gblm.BalanceTerms(W, s, G);
        (balance.GradientMedian * balance.Scale).ShouldBe(balance.ActivationMedian, 1e-9);
        balance.GradientShare.ShouldBeInRange(0.2, 0.8);
        var layer = new LayerContext { Name = "w", Weight = W, InputNorms = s };
        Tensor score = new Gblm().WithGradients(_ => G).Score(layer);
        score.allclose(Gblm.Score(W, s, G * balance.Scale), 1e-5).ShouldBeTrue();
        new Gblm { Scale = 100 }.WithGradients(_ => G).Score(layer).allclose(Gblm.Score(W, s, G * 100), 1e-5).ShouldBeTrue();
        Gblm.BalanceTerms(W, s, zeros_like(G)).Scale.ShouldBe(1);
    }

    [Fact]
    public void The_gradient_pass_is_the_norm_of_each_samples_gradient_and_leaves_no_trace()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(1, 3, 4).requires_grad_(true), X = Random(2, 5, 4), T = Random(3, 5, 3);
        Tensor Loss(int k) => (nn.functional.linear(X[k], W) - T[k]).square().mean();
        Tensor each = stack(Enumerable.Range(0, 5).Select(k => autograd.grad([Loss(k)], [W])[0]));
        long before = Tensor.TotalCount;
        using (IDisposable inner = NewDisposeScope())
        {
            Gblm.MeasureGradients([("W", W)], 5, Loss, GradientNorm.L1)["W"].allclose(Gblm.GradientNorms(each, 1).L1, 1e-5).ShouldBeTrue();
            Gblm.MeasureGradients([("W", W)], 5, Loss)["W"].allclose(Gblm.GradientNorms(each, 1).L2, 1e-5).ShouldBeTrue();
        }

        (W.grad is null).ShouldBeTrue();
        Tensor.TotalCount.ShouldBe(before);
    }

    [Fact]
    public void A_language_model_is_measured_in_all_its_linear_maps()
    {
        using var scope = NewDisposeScope();
        using var model = TinyModels.Create("llama");
        (string Name, Tensor Weight)[] weights = [.. model.Tensors.Where(t => model.Blocks.Any(b => b.Linears.Any(l => l.Name == t.Name))).Select(t => (t.Name, (Tensor)t.Value.requires_grad_(true)))];
        using Generator generator = new Seed(4).Generator("ids");
        Tensor ids = randint(0, 37, [3, 8], generator: generator);
        IReadOnlyDictionary<string, Tensor> G = Gblm.MeasureGradients(weights, 3,
            k => nn.functional.cross_entropy(model.Logits(ids.narrow(0, k, 1)).narrow(1, 0, 7).reshape(-1, 37), ids[k].narrow(0, 1, 7)));
        G.Count.ShouldBe(14);
        G.Values.ShouldAllBe(g => g.isfinite().all().item<bool>() && g.max().item<float>() > 0);
    }

    [Fact]
    public void The_word_and_its_options_make_one() =>
        MethodCatalogue.Default.Create<ICriterion>("gblm", new Dictionary<string, object?> { ["scale"] = 100, ["mode"] = "inverse" })
            .ShouldBeOfType<Gblm>().ShouldSatisfyAllConditions(g => g.Scale.ShouldBe(100), g => g.Mode.ShouldBe(GblmMode.Inverse));

    [Fact]
    public void Bad_input_is_named()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(1, 3, 4);
        var layer = new LayerContext { Name = "block.w", Weight = W, InputNorms = ones(4) };
        Sentence(() => new Gblm().Score(layer)).ShouldContain("block.w");
        Sentence(() => new Gblm().WithGradients(_ => ones(4, 3)).Score(layer)).ShouldContain("[4, 3]");
        Sentence(() => new Gblm().WithGradients(_ => ones(3, 4)).Score(new LayerContext { Name = "block.w", Weight = W })).ShouldContain("calibration");
        Sentence(() => new Gblm { Scale = 0 }).ShouldContain("scale");
        Sentence(() => Gblm.MeasureGradients([("w", W)], 1, _ => W.sum())).ShouldContain("frozen");
        Tensor live = W.clone().requires_grad_(true), other = W.clone().requires_grad_(true);
        Sentence(() => Gblm.MeasureGradients([("w", live), ("v", other)], 1, _ => live.sum())).ShouldContain("does not depend on v");
        Sentence(() => Gblm.MeasureGradients([("w", live)], 1, _ => (live * 0).sum())).ShouldContain("zero everywhere");
    }

    private static string Sentence(Action act) => Should.Throw<EspalierException>(act).Message;

    private static string Sentence(Func<object> act) => Should.Throw<EspalierException>(() => { act(); }).Message;

    private static Tensor Random(int seed, params long[] shape)
    {
        using Generator generator = new Seed(seed).Generator("test");
        return randn(shape, generator: generator);
    }
}
