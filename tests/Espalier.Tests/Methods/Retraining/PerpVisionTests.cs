using Espalier.Data;
using Espalier.Methods.Merging;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Retraining;

public sealed class PerpVisionTests
{
    private static readonly TrainingOptions Options = new() { Steps = 20, LearningRate = 1e-2, WarmupFraction = 0.1 };

    [Theory]
    [InlineData(TinyVision.ResNet, Subset.Norms | Subset.Biases | Subset.Head)]
    [InlineData(TinyVision.ResNet, Subset.Norms | Subset.MaskLora)]
    [InlineData(TinyVision.ResNet, Subset.Head | Subset.ScaleLora)]
    [InlineData(TinyVision.ResNet, Subset.Full)]
    [InlineData(TinyVision.LeNet, Subset.Biases)]
    [InlineData(TinyVision.Vit, Subset.Norms | Subset.MaskLora)]
    public void Retraining_keeps_every_zero_and_touches_nothing_that_was_not_selected(string json, Subset subset)
    {
        using VisionModel net = TinyVision.Make(json);
        using ImageTensors images = Corners(net);
        var perp = new Perp { Subset = subset, Rank = 2, Alpha = 4, Sparsity = 0.6 };
        long live = Parameters.LiveTensors;
        using (VisionMethodResult result = perp.Run(new VisionMethodContext { Model = net, Images = images, Test = images, Options = Options, Batch = 8, Seed = new Seed(1) }))
        {
            result.Sparsity.ShouldBe(0.6, 0.01);
            result.Net.Weights.Sum(w => w.Weight.numel() - w.Weight.count_nonzero().item<long>()).ShouldBeGreaterThanOrEqualTo(result.Masks.Values.Sum(m => m.Count - m.Kept));
            result.Figures.Single(f => f.Name == "parameters trained").Value.ShouldBe(Counted(net, subset));
            result.Net.Weights.ShouldAllBe(w => w.Adapter == null && w.Weight.requires_grad);

            // Of the weights only those that adapters or the subset reach have moved away from what pruning left.
            using var scope = NewDisposeScope();
            foreach ((WeightLayer after, WeightLayer before) in result.Net.Weights.Zip(net.Weights))
            {
                bool head = after == result.Net.Weights[^1] && subset.HasFlag(Subset.Head);
                bool moves = head || (subset & (Subset.Full | Subset.MaskLora | Subset.ScaleLora)) != 0;
                Tensor kept = result.Masks[after.WeightName].ToTensor().view(after.Weight.shape).to(ScalarType.Float32);
                (after.Weight - (before.Weight * kept)).abs().sum().item<float>().ShouldBe(0, moves ? double.MaxValue : 0, after.Name);
                after.Weight.masked_select(kept.eq(0)).count_nonzero().item<long>().ShouldBe(0);
            }
        }

        GC.Collect();
        GC.WaitForPendingFinalizers();
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(live + 4);
    }

    [Fact]
    public void What_makes_no_sense_is_refused_with_a_sentence()
    {
        using VisionModel net = TinyVision.Make(TinyVision.ResNet), bare = TinyVision.Make(TinyVision.Mean);
        Should.Throw<EspalierException>(() => new Perp { Subset = Subset.Norms }.Check(net, Options)).Message.ShouldContain("set sparsity");
        Should.Throw<EspalierException>(() => new Perp { Subset = Subset.Norms, Sparsity = 0.5 }.Check(bare, Options)).Message.ShouldContain("selects nothing");
        Should.Throw<EspalierException>(() => new Perp { Subset = Subset.LoraPrune, Sparsity = 0.5 }.Check(net, Options)).Message.ShouldContain("mask_lora");
        Should.Throw<EspalierException>(() => new Perp { Subset = Subset.MaskLora, Sparsity = 0.5, Rank = 16 }.Check(net, Options)).Message.ShouldContain("rank of 16 does not fit conv1");
        Should.Throw<EspalierException>(() => new Perp { Sparsity = 1 }).Message.ShouldContain("sparsity");
        using var scope = NewDisposeScope();
        MagnitudePruning.Prune(net, MagnitudePruning.All(net), 0.5, MagnitudeSelector.Global, new Seed(0));
        Should.NotThrow(() => new Perp { Subset = Subset.Norms }.Check(net, Options));
    }

    private static ImageTensors Corners(VisionModel net)
    {
        using ImageTensors small = TinyImages.Corners(24, net.Config.Channels);
        using var scope = NewDisposeScope();
        int factor = net.Config.ImageSize / 8;
        return new ImageTensors("corners", small.Images.repeat_interleave(factor, 2).repeat_interleave(factor, 3), small.Labels.clone());
    }

    private static double Counted(VisionModel net, Subset subset) => subset.HasFlag(Subset.Full) ? net.ParameterCount
        : net.Parameters.Where(p => (subset.HasFlag(Subset.Biases) && p.Name.EndsWith(".bias", StringComparison.Ordinal))
            || (subset.HasFlag(Subset.Norms) && p.Value.dim() == 1 && (p.Name.Contains("bn") || p.Name.Contains("norm")))
            || (subset.HasFlag(Subset.Head) && p.Name.StartsWith(net.Weights[^1].Name + ".", StringComparison.Ordinal))).Sum(p => p.Value.numel())
        + ((subset & (Subset.MaskLora | Subset.ScaleLora)) != 0 ? net.Weights.SkipLast(subset.HasFlag(Subset.Head) ? 1 : 0).Sum(w => 2 * (w.Rows + w.Columns)) : 0);
}
