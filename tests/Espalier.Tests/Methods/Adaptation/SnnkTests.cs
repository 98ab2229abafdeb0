using Espalier.Catalogue;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Adaptation;

public sealed class SnnkTests
{
    private static readonly TrainingOptions Few = new() { Steps = 4, LearningRate = 1e-2 };

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Relu_features_estimate_the_arc_cosine_kernel(bool orthogonal)
    {
        using var scope = NewDisposeScope();
        Tensor x = Normal(1, 3, 8), w = Normal(2, 4, 8), g = RandomFeatures.Projection(40_000, 8, orthogonal, new Seed(1), "test");
        Tensor estimate = RandomFeatures.Relu(x, g).mm(RandomFeatures.Relu(w, g).t());
        (estimate - RandomFeatures.ArcCosine(x, w)).abs().max().item<float>().ShouldBeLessThan(0.25f);
    }

    [Theory]
    [InlineData(UniversalFunction.Sin, 0.0)]
    [InlineData(UniversalFunction.Cos, 0.0)]
    [InlineData(UniversalFunction.Cos, -0.1)]
    public void Universal_features_are_unbiased(UniversalFunction function, double damping)
    {
        using var scope = NewDisposeScope();
        Tensor x = Normal(3, 2, 4) * 0.3, w = Normal(4, 3, 4) * 0.3, bias = Normal(5, 3), g = RandomFeatures.Projection(200_000, 4, false, new Seed(2), "test");
        Tensor xi = (arange(200_000).remainder(2) * 2 - 1) / (2 * Math.PI);
        Tensor estimate = RandomFeatures.Universal(x, g, xi, damping).mm(RandomFeatures.UniversalWeights(function, w, bias, g, xi, damping).t()).real;
        Tensor inside = nn.functional.linear(x, w, bias);
        (estimate - (function is UniversalFunction.Sin ? inside.sin() : inside.cos())).abs().max().item<double>().ShouldBeLessThan(0.05);
        Should.Throw<EspalierException>(() => RandomFeatures.Universal(x, g, xi, -0.25)).Message.ShouldContain("above -0.25");
    }

    [Fact]
    public void Primal_and_dual_fits_agree_and_a_singular_one_is_solved()
    {
        using var scope = NewDisposeScope();
        Tensor phi = randn([20, 12], ScalarType.Float64), y = randn([20, 2], ScalarType.Float64), wide = cat([phi, zeros([20, 30], ScalarType.Float64)], 1);
        Tensor primal = RandomFeatures.Fit(phi, y, 1e-3), dual = RandomFeatures.Fit(wide, y, 1e-3);
        (dual.narrow(0, 0, 12) - primal).abs().max().item<double>().ShouldBeLessThan(1e-8);
        Tensor twice = cat([phi, phi], 1).narrow(1, 0, 20);
        RandomFeatures.Fit(twice, y, 0).isfinite().all().item<bool>().ShouldBeTrue();
        Should.Throw<EspalierException>(() => RandomFeatures.Fit(phi, y, -1)).Message.ShouldContain("ridge of -1");
    }

    [Fact]
    public void Orthogonal_rows_are_orthogonal_within_blocks_and_as_long_as_told()
    {
        using var scope = NewDisposeScope();
        Tensor norms = rand(7) + 0.5, g = RandomFeatures.OrthogonalRows(randn(2, 4, 4), norms);
        g.shape.ShouldBe([7, 4]);
        (linalg.norm(g, 2, [1]) - norms).abs().max().item<float>().ShouldBeLessThan(1e-5f);
        Tensor block = g.narrow(0, 0, 4);
        (block.mm(block.t()) - diag(norms.narrow(0, 0, 4).square())).abs().max().item<float>().ShouldBeLessThan(1e-5f);
    }

    [Theory]
    [InlineData(KernelFeatures.Relu, 3)]
    [InlineData(KernelFeatures.Relu, 0)]
    [InlineData(KernelFeatures.Sin, 3)]
    [InlineData(KernelFeatures.Cos, 0)]
    [InlineData(KernelFeatures.Plain, 3)]
    public void An_adapter_starts_as_nothing_learns_and_opens_again(KernelFeatures kind, int bottleneck)
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 12), before = Logits(model, ids);
        var method = new Snnk { Kind = kind, Bottleneck = bottleneck, Features = 5, Length = kind is KernelFeatures.Sin or KernelFeatures.Cos ? 1 : 0, Targets = ["o_proj", "down_proj"] };
        using (method.Begin(AdaptationContext.Of(model)))
        {
            Largest(Logits(model, ids), before).ShouldBe(0);
        }

        using AdaptationResult result = new AdaptationTraining(Few) { Batch = 2, Length = 8 }.Run(method, model, [.. Enumerable.Range(0, 400).Select(i => i * 7 % model.Config.VocabSize)]);
        Tensor beside = Logits(model, ids);
        Largest(beside, before).ShouldBeGreaterThan(1e-4);
        Should.Throw<EspalierException>(() => result.Adapter.Merge()).Message.ShouldContain("cannot be folded");
        Largest(Logits(model, ids), beside).ShouldBe(0);
        result.Adapter.Save(folder.Path);
        result.Dispose();
        Largest(Logits(model, ids), before).ShouldBe(0);
        using (var shelf = new AdapterShelf(AdaptationContext.Of(model)))
        {
            Should.Throw<EspalierException>(() => shelf.Add("kernel", folder.Path)).Message.ShouldContain("takes no place among others");
        }

        using IAdaptationRun opened = AdapterFile.MethodOf(folder.Path).Begin(AdaptationContext.Of(model) with { Saved = folder.Path });
        Largest(Logits(model, ids), beside).ShouldBeLessThan(1e-6);
    }

    [Theory]
    [InlineData(BundleTargets.Classes, false)]
    [InlineData(BundleTargets.Logits, true)]
    public void A_bundled_net_is_smaller_keeps_what_comes_before_and_learns(BundleTargets fit, bool tune)
    {
        using VisionModel net = TinyVision.Make(TinyVision.Mlp);
        using ImageTensors images = TinyImages.Corners(60, 1);
        var method = new Snnk { Features = 12, Fit = fit, Tune = tune };
        using VisionMethodResult result = method.Run(new VisionMethodContext { Model = net, Images = images, Options = Few, Batch = 8 });
        using var scope = NewDisposeScope();
        LinearLayer[] maps = [.. result.Net.Weights.OfType<LinearLayer>()];
        maps.Select(m => m.Rows).ShouldBe([6, 12, 3]);
        maps[0].Weight.eq(net.Weights[0].Weight).all().item<bool>().ShouldBeTrue();
        maps[1].Bias!.count_nonzero().item<long>().ShouldBe(0);
        if (fit is BundleTargets.Classes)
        {
            ImageAccuracy.Evaluate(result.Net, images).Top1.ShouldBeGreaterThan(50);
        }

        using VisionMethodResult again = method.Run(new VisionMethodContext { Model = net, Images = images, Options = Few, Batch = 8 });
        again.Net.Parameters.Zip(result.Net.Parameters).ShouldAllBe(p => p.First.Value.eq(p.Second.Value).all().item<bool>());
    }

    [Fact]
    public void A_pruned_model_keeps_its_zeros_under_an_adapter()
    {
        using LanguageModel model = TinyModels.Create("llama");
        Dictionary<string, SparsityMask> masks = Retraining.TinyRetraining.Prune(model.Blocks);
        using IAdaptationRun run = new Snnk { Targets = ["o_proj"] }.Begin(AdaptationContext.Of(model, masks));
        ((WeightAdaptationRun)run).Adapters.ShouldAllBe(a => a is SnnkAdapter);
    }

    [Fact]
    public void What_cannot_be_bundled_or_adapted_is_refused()
    {
        using VisionModel resnet = TinyVision.Make(TinyVision.ResNet), mlp = TinyVision.Make(TinyVision.Mlp);
        Should.Throw<EspalierException>(() => new Snnk().Check(resnet, Few)).Message.ShouldContain("does not end so");
        Should.Throw<EspalierException>(() => new Snnk { Layers = 4 }.Check(mlp, Few)).Message.ShouldContain("bundles 4 linear maps");
        Should.Throw<EspalierException>(() => new Snnk { Kind = KernelFeatures.Sin }.Check(mlp, Few)).Message.ShouldContain("Only relu features");
        Should.Throw<EspalierException>(() => new Snnk().Check(NetWeight.Of(resnet), Few)).Message.ShouldContain("is a convolution");
        Should.Throw<EspalierException>(() => MethodCatalogue.Default.Create<IAdaptation>("snnk", new Dictionary<string, object?> { ["features"] = 0 })).Message.ShouldContain("number of features of 0");
    }

    private static Tensor Normal(long seed, params long[] shape)
    {
        using Generator generator = new Seed(seed).Generator("draw");
        return randn(shape, ScalarType.Float32, generator: generator);
    }

    private static Tensor Logits(LanguageModel model, Tensor ids)
    {
        using var _ = no_grad();
        return model.Logits(ids);
    }

    private static double Largest(Tensor a, Tensor b) => (a - b).abs().max().item<float>();
}
