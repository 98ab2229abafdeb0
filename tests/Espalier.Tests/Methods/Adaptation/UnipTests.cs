using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Adaptation;

public sealed class UnipTests
{
    [Fact]
    public void The_reference_cases_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "unip")).Lines).ShouldBe("unip: 15/15");

    [Fact]
    public void Local_maps_have_an_NMI_of_one_global_ones_of_zero_and_extremes_stay_finite()
    {
        using var scope = NewDisposeScope();
        Tensor local = eye(8).mul(200).view(1, 1, 8, 8), shared = zeros(1, 1, 8, 8);
        shared.select(3, 2).fill_(300);
        AttentionPatterns.Of(local, false).Mean.ShouldBe(1, 1e-9);
        AttentionPatterns.Of(shared, false).Mean.ShouldBe(0, 1e-9);
        AttentionPatterns.Of(zeros(2, 3, 8, 8), false).Mean.ShouldBe(0, 1e-9);
        // What the class token takes leaves the pattern of the others as it is.
        Tensor withClass = nn.functional.pad(local, [1, 0, 1, 0], value: 500);
        AttentionPatterns.Of(withClass, true).Mean.ShouldBe(1, 1e-9);
        Tensor random = randn(2, 2, 6, 6);
        AttentionPatterns.Of(random, false).Nmi.ge(0).logical_and(AttentionPatterns.Of(random, false).Nmi.le(1)).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void The_maps_are_those_that_the_net_attends_by_and_running_up_to_a_layer_changes_nothing()
    {
        using var scope = NewDisposeScope();
        using VisionModel net = TinyVision.Make(TinyVision.Vit);
        Tensor images = TinyVision.Images(net);
        AttentionLayer attention = net.Layers.OfType<AttentionLayer>().Last();
        Tensor qkv = net.Forward(images, attention.Inputs[0]), scores = Unip.AttentionScores(net, images, 2);
        Tensor v = qkv.narrow(2, 24, 12).view(qkv.shape[0], qkv.shape[1], 3, 4).transpose(1, 2);
        Tensor mixed = scores.softmax(-1).matmul(v).transpose(1, 2).reshape(qkv.shape[0], qkv.shape[1], 12);
        (mixed - net.Forward(images, attention)).abs().max().item<float>().ShouldBeLessThan(1e-5f);
        net.Forward(images, net.Layers[^1]).equal(net.Forward(images)).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void A_student_learns_the_maps_keeps_its_positions_and_is_a_net_of_its_own()
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        using VisionModel teacher = TinyVision.Make(TinyVision.Vit);
        using ImageTensors images = Noise(40);
        var method = new Unip { Width = 24, Depth = 2, Heads = 2, Layer = 1, DropPath = 0 };
        var options = new TrainingOptions { Steps = 60, LearningRate = 5e-3 };
        long live = Parameters.LiveTensors;
        using (VisionMethodResult result = method.Run(new VisionMethodContext { Model = teacher, Images = images, Options = options, Batch = 20 }, TestContext.Current.CancellationToken))
        {
            using var inner = NewDisposeScope();
            double first = Figure("loss at the first step"), last = Figure("loss at the last step");
            last.ShouldBeLessThan(0.8 * first);
            result.Net.Layers.OfType<AttentionLayer>().Select(a => a.Heads).ShouldBe([2, 3]);
            result.Net.Save(folder.Path);
            using VisionModel loaded = VisionModel.Load(folder.Path);
            loaded.Forward(TinyVision.Images(loaded)).isfinite().all().item<bool>().ShouldBeTrue();
            using VisionModel start = method.Student(teacher, 1, new Seed(0));
            start.Parameters.First(p => p.Name == "pos_embed").Value.equal(result.Net.Parameters.First(p => p.Name == "pos_embed").Value).all().item<bool>().ShouldBeTrue();
            result.Net.Parameters.ShouldAllBe(p => p.Value.requires_grad);

            double Figure(string name) => result.Figures.First(f => f.Name == name).Value;
        }

        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(live);
    }

    [Fact]
    public void Scenes_have_masks_where_their_items_are_and_a_segmenter_learns_them()
    {
        using var scope = NewDisposeScope();
        using ImageTensors items = Items();
        using SegmentationScenes colour = SegmentationScenes.Draw(items, null, 24, 16, SceneRendering.Colour, new Seed(4)), cold = SegmentationScenes.Draw(items, null, 24, 16, SceneRendering.Infrared, new Seed(4));
        colour.Classes.ShouldBe(3);
        colour.Masks.equal(cold.Masks).all().item<bool>().ShouldBeTrue();
        colour.Masks.ne(0).sum([1, 2]).eq(36).all().item<bool>().ShouldBeTrue();
        cold.Images.Images.select(1, 0).equal(cold.Images.Images.select(1, 2)).all().item<bool>().ShouldBeTrue();
        (colour.Masks.amax([1, 2]) - 1).equal(colour.Images.Labels).all().item<bool>().ShouldBeTrue();

        using VisionModel net = VisionModel.Random(VisionConfig.Parse("""{"model_type": "timm_vit", "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "image_size": 16}"""), new Seed(0));
        long live = Parameters.LiveTensors;
        using (var segmenter = new VitSegmenter(net, 3, new Seed(1)))
        {
            TrainingResult result = segmenter.Train(colour, new TrainingOptions { Steps = 30, LearningRate = 3e-3 }, 12, new Seed(2), cancellation: TestContext.Current.CancellationToken);
            result.FinalLoss.ShouldBeLessThan(result.Losses[0]);
            segmenter.Evaluate(colour).PixelAccuracy.ShouldBeInRange(0, 1);
            SegmentationProbe.Run(net, colour, cold, new TrainingOptions { Steps = 5, LearningRate = 0.01 }, TestContext.Current.CancellationToken).Classes.ShouldBe(3);
        }

        foreach ((_, TorchSharp.Modules.Parameter value) in net.Parameters)
        {
            value.grad = null;
        }

        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(live);
    }

    [Fact]
    public void Layers_decay_from_the_head_down()
    {
        Func<string, ParameterGroup> groups = VitSegmenter.LayerGroups(12, 0.85);
        groups("pos_embed").RateMultiplier.ShouldBe(Math.Pow(0.85, 13), 1e-12);
        groups("blocks.11.attn.qkv.weight").RateMultiplier.ShouldBe(0.85, 1e-12);
        groups("decoder.fpn1.0.weight").RateMultiplier.ShouldBe(1);
    }

    [Fact]
    public void Bad_input_gets_a_sentence()
    {
        using var scope = NewDisposeScope();
        using VisionModel vit = TinyVision.Make(TinyVision.Vit), resnet = TinyVision.Make(TinyVision.ResNet);
        var options = new TrainingOptions { Steps = 1 };
        Sentence(() => new Unip { Width = 20, Heads = 2 }.Check(vit, options)).ShouldContain("multiple of 3");
        Sentence(() => new Unip { Width = 24, Layer = 5 }.Check(vit, options)).ShouldContain("layer 5");
        Sentence(() => new Unip().Check(resnet, options)).ShouldContain("give a ViT");
        Sentence(() => new Unip { Target = 2 }).ShouldContain("target");
        Sentence(() => AttentionPatterns.DistillationLoss(zeros(1, 2, 4, 4), zeros(1, 3, 4, 4))).ShouldContain("same heads");
        Sentence(() => AttentionPatterns.Of(zeros(1, 1, 1, 1), true)).ShouldContain("class token");
        Sentence(() => SegmentationScore.Of(zeros(4, ScalarType.Int64), full(4, 7, ScalarType.Int64), 3)).ShouldContain("class 7");
        Sentence(() => SegmentationScore.Of(zeros(4, ScalarType.Int64), zeros(5, ScalarType.Int64), 3)).ShouldContain("shape");
        using ImageTensors items = Items();
        Sentence(() => SegmentationScenes.Draw(items, null, 2, 4, SceneRendering.Colour, new Seed(0))).ShouldContain("at most 4");
        PlanWords.Method<IVisionMethod>("unip", ["width=96", "layer=3"]).ShouldBe(new Unip { Width = 96, Layer = 3 });
    }

    private static string Sentence(Action act) => Should.Throw<EspalierException>(act).Message;

    private static ImageTensors Noise(int count)
    {
        using var scope = NewDisposeScope();
        manual_seed(3);
        return new ImageTensors("noise", (rand(count, 3, 8, 8) * 255).to(ScalarType.Byte), zeros(count, ScalarType.Int64));
    }

    private static ImageTensors Items()
    {
        using var scope = NewDisposeScope();
        return new ImageTensors("squares", full([4, 1, 6, 6], 200, ScalarType.Byte), tensor(new long[] { 0, 1, 0, 1 }));
    }
}
