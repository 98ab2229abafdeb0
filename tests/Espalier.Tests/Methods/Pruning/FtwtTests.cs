using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Merging;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class FtwtTests
{
    private const string Bottleneck = """{"model_type": "torchvision_resnet", "depth": 50, "small_images": true, "image_size": 8, "num_classes": 3}""";

    private static readonly TrainingOptions Options = new() { Steps = 10, LearningRate = 0.02, Optimizer = "sgd", Momentum = 0.9, WeightDecay = 5e-4, Schedule = "constant" };

    [Fact]
    public void The_filter_that_crosses_the_mass_is_closed_even_where_it_is_alone()
    {
        using var scope = NewDisposeScope();
        Fires([4, 3, 2, 1], FtwtTarget.Mass, 0.7).ShouldBe([1, 1, 0, 0]); // 0.4, 0.7, then over
        Fires([9, 1, 0, 0], FtwtTarget.Mass, 0.5).ShouldBe([0, 0, 0, 0]);
        Fires([9, 1, 0, 1e-6f], FtwtTarget.Mass, 1).ShouldBe([1, 1, 0, 0]);
        Fires([0, 0, 0, 0], FtwtTarget.Mass, 0.5).ShouldBe([1, 1, 1, 1]);
        Fires([0, 0, 0, 0], FtwtTarget.Mass, 1).ShouldBe([1, 1, 1, 1]);
        Fires([0, 3, 1, 0], FtwtTarget.Mass, -1).ShouldBe([1, 1, 1, 1]);
        Fires([5, 1, 2, 0, 3], FtwtTarget.Uniform, 0.5).ShouldBe([1, 0, 1, 0, 1]); // two of five
        Fires([5, 1, 2, 0, 3], FtwtTarget.Uniform, 0).ShouldBe([1, 1, 1, 0, 1]);
        Fires([5, 1, 2, 0, 3], FtwtTarget.Uniform, -0.1).ShouldBe([1, 1, 1, 1, 1]);
        Fires([5, 1], FtwtTarget.Uniform, 1).ShouldBe([0, 0]);
        Should.Throw<EspalierException>(() => Fires([1, 2], FtwtTarget.Mass, 1.01)).Message.ShouldContain("at most 1");
        Should.Throw<EspalierException>(() => new Ftwt { Ratio = double.NaN }).Message.ShouldContain("at most 1");

        float[] Fires(float[] heat, FtwtTarget target, double ratio) => [.. Ftwt.Fires(tensor(heat).unsqueeze(0), target, ratio).data<float>()];
    }

    [Theory]
    [InlineData(TinyVision.Vgg, 2)]
    [InlineData(TinyVision.ResNet, 7)]
    [InlineData(Bottleneck, 49)]
    public void Open_gates_change_nothing_and_the_runner_that_skips_gives_what_the_net_gives(string json, int gates)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using VisionModel net = TinyVision.Make(json), gated = new Ftwt { Ratio = 0.8 }.Gated(net, new Seed(1));
        gated.Gates.Count.ShouldBe(gates);
        gated.Macs.ShouldBe(net.Macs);
        Tensor images = TinyVision.Images(net, 6), dense = net.Forward(images);
        Ftwt.Deciding(gated, _ => r => ones_like(r.Logits), () => gated.Forward(images)).allclose(dense, 1e-4, 1e-5, false).ShouldBeTrue();
        using VisionModel without = gated.WithoutGates();
        without.Forward(images).allclose(dense, 1e-6, 1e-7, false).ShouldBeTrue();

        Tensor some = gated.Forward(images);
        some.allclose(dense, 1e-4, 1e-5, false).ShouldBeFalse();
        Same();
        gated.Gates[1].Bias.fill_(-100); // a silent layer
        Same();

        void Same()
        {
            using var runner = new SkippingRunner(gated);
            Tensor expected = gated.Forward(images);
            for (int i = 0; i < images.shape[0]; i++)
            {
                Tensor one = runner.Forward(images.narrow(0, i, 1)).squeeze(0);
                (one - expected[i]).norm().item<float>().ShouldBeLessThan(1e-4f * (1 + expected[i].norm().item<float>()));
            }

            Should.Throw<EspalierException>(() => runner.Forward(images)).Message.ShouldContain("one image at a time");
        }
    }

    [Fact]
    public void Work_is_open_filters_times_open_inputs_image_by_image()
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using VisionModel net = TinyVision.Make(TinyVision.Vgg), gated = new Ftwt().Gated(net, new Seed(1));
        using var meter = new GateMeter(gated);
        // The first image opens 1 of 4 and 6 of 6 filters, the second 3 and 2.
        Tensor[] open = [tensor(new float[] { 0, 1, 0, 0, 1, 0, 1, 1 }).view(2, 4), tensor(new float[] { 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 1 }).view(2, 6)];
        Ftwt.Deciding(gated, g => _ => open[g.Convolution.Name == "features.0" ? 0 : 1].clone(), () => meter.Forward(TinyVision.Images(net)));
        long linear = net.Weights.OfType<LinearLayer>().Sum(l => l.Macs);
        (meter.Work.Most, meter.Work.Least).ShouldBe(((3 * 64 * 27) + (2 * 16 * 27) + linear, (64 * 27) + (6 * 16 * 9) + linear));
        meter.Work.Dense.ShouldBe((4 * 64 * 27) + (6 * 16 * 36) + linear);
        meter.Work.Predictors.ShouldBe((4 * 3) + (6 * 4));
        meter.Work.Open["features.4"].ShouldBe(100 * 8 / 12.0, 1e-9);

        // Behind a sum every channel is read.
        using VisionModel residual = TinyVision.Make(TinyVision.ResNet), all = new Ftwt().Gated(residual, new Seed(1));
        using var counts = new GateMeter(all);
        Ftwt.Deciding(all, g => r => g.Convolution.Name == "layer1.0.conv2" ? zeros_like(r.Logits) : ones_like(r.Logits), () => counts.Forward(TinyVision.Images(residual)));
        counts.Work.Macs.ShouldBe(residual.Macs - residual.Weights.Single(w => w.Name == "layer1.0.conv2").Macs);
    }

    [Theory]
    [InlineData(FtwtMode.Decoupled)]
    [InlineData(FtwtMode.Joint)]
    public void Predictors_learn_before_the_cooldown_only_and_joint_training_reaches_what_lies_before(FtwtMode mode)
    {
        using ImageTensors images = TinyImages.Corners(24);
        using VisionModel net = TinyVision.Make(TinyVision.ResNet);
        using VisionModel learned = Trained(0.5, 10), same = Trained(0.5, 10), settled = Trained(1, 5), still = Trained(0, 10);
        using VisionModel fresh = new Ftwt { Mode = mode }.Gated(net, new Seed(2));
        Distance(learned, same, _ => true).ShouldBe(0);
        Distance(learned, settled, n => n.Contains(".gate.")).ShouldBe(0); // frozen after half of ten steps
        Distance(learned, settled, n => !n.Contains(".gate.")).ShouldBeGreaterThan(0);
        Distance(still, fresh, n => n.Contains(".gate.")).ShouldBe(0);
        Distance(learned, fresh, n => n.Contains(".gate.")).ShouldBeGreaterThan(0);
        learned.Gates.ShouldAllBe(g => g.Joint == (mode == FtwtMode.Joint));

        using var scope = NewDisposeScope();
        Tensor input = TinyVision.Images(fresh).requires_grad_();
        Tensor? loss = null;
        foreach (GateLayer gate in fresh.Gates)
        {
            gate.Observer = r => loss ??= Ftwt.MaskLoss(r.Logits, ones_like(r.Logits)).DetachFromDisposeScope();
        }

        fresh.Forward(input);
        loss!.backward();
        (input.grad is not null).ShouldBe(mode == FtwtMode.Joint);
        loss.Dispose();
        fresh.ClearGradients();

        VisionModel Trained(double cooldown, int steps)
        {
            var method = new Ftwt { Ratio = 0.8, Mode = mode, Cooldown = cooldown };
            VisionModel gated = method.Gated(net, new Seed(2));
            method.Train(gated, new VisionMethodContext { Model = net, Images = images, Options = Options with { Steps = steps }, Batch = 8, Seed = new Seed(4) });
            return gated;
        }

        static double Distance(VisionModel a, VisionModel b, Func<string, bool> of)
        {
            using var inner = NewDisposeScope();
            using var frozen = no_grad();
            return a.Tensors.Zip(b.Tensors).Where(p => of(p.First.Name)).Sum(p => (p.First.Value - p.Second.Value).abs().sum().item<float>());
        }
    }

    [Theory]
    [InlineData(FtwtTarget.Mass, 0.8, -1, false)]
    [InlineData(FtwtTarget.Uniform, 0.3, 16, true)]
    public void A_run_gives_a_net_that_is_saved_with_its_gates(FtwtTarget target, double ratio, int embedding, bool warm)
    {
        using var folder = new TemporaryFolder();
        using ImageTensors images = TinyImages.Corners(24);
        using VisionModel net = TinyVision.Make(TinyVision.Vgg);
        var method = new Ftwt { Target = target, Ratio = ratio, Embedding = embedding, WarmStart = warm, KeepTop = warm, FineTune = 2, Softmax = true };
        long before = Parameters.LiveTensors;
        using (VisionMethodResult result = method.Run(new VisionMethodContext { Model = net, Images = images, Test = images, Options = Options, Batch = 8, Folder = folder.Path }))
        {
            result.Figures.Select(f => f.Name).ShouldContain("saving, %");
            result.Figures.ShouldAllBe(f => double.IsFinite(f.Value));
            result.Net.Save(folder.Path);
            using VisionModel again = VisionModel.Load(folder.Path);
            again.Gates.Count.ShouldBe(2);
            again.Gates[1].Side.ShouldBe(embedding < 0 ? 1 : 2); // √(16/4)
            (again.Gates[0].KeepTop, again.Gates[0].Softmax).ShouldBe((warm, true));
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            Tensor sample = TinyVision.Images(net, 4);
            again.Forward(sample).equal(result.Net.Forward(sample)).all().item<bool>().ShouldBeTrue();
            using var runner = new SkippingRunner(again);
            (runner.Forward(sample.narrow(0, 0, 1)) - again.Forward(sample)[0]).abs().max().item<float>().ShouldBeLessThan(1e-4f);
            Should.Throw<EspalierException>(() => again.Cut(new Dictionary<string, IReadOnlyCollection<int>> { ["features.0"] = [0] })).Message.ShouldContain("gates");
            Should.Throw<EspalierException>(() => method.Check(again, Options)).Message.ShouldContain("already");
            File.ReadAllText(folder["ftwt.html"]).ShouldContain("features.4");
        }

        GC.Collect();
        GC.WaitForPendingFinalizers();
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before + 4);
    }

    [Fact]
    public void What_static_pruning_made_zero_stays_zero()
    {
        using ImageTensors images = TinyImages.Corners(24);
        using VisionModel net = TinyVision.Make(TinyVision.ResNet);
        using var scope = NewDisposeScope();
        MagnitudePruning.Prune(net, MagnitudePruning.All(net), 0.5, MagnitudeSelector.Uniform, new Seed(0));
        using VisionMethodResult result = new Ftwt { Ratio = 0.9 }.Run(new VisionMethodContext { Model = net, Images = images, Options = Options, Batch = 8 });
        result.Sparsity.ShouldBe(0.5, 0.01);
        result.Net.Weights.Sum(w => w.Weight.eq(0).sum().item<long>()).ShouldBe(net.Weights.Sum(w => w.Weight.eq(0).sum().item<long>()));
    }

    [Fact]
    public void A_warm_start_opens_all_and_keep_top_leaves_one_open()
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using VisionModel net = TinyVision.Make(TinyVision.ResNet), warm = new Ftwt { WarmStart = true, KeepTop = true }.Gated(net, new Seed(1));
        Tensor images = TinyVision.Images(net, 3);
        warm.Forward(images).allclose(net.Forward(images), 1e-4, 1e-5, false).ShouldBeTrue();
        foreach (GateLayer gate in warm.Gates)
        {
            gate.Bias.fill_(-5);
        }

        using var meter = new GateMeter(warm);
        Tensor gated = meter.Forward(images);
        meter.Work.Open.ShouldAllBe(o => o.Value > 0);
        meter.Work.Open["conv1"].ShouldBe(25, 1e-9); // one of four
        using var runner = new SkippingRunner(warm);
        (runner.Forward(images.narrow(0, 1, 1)).squeeze(0) - gated[1]).abs().max().item<float>().ShouldBeLessThan(1e-4f);
    }

    [Fact]
    public void What_cannot_be_gated_is_refused_with_a_sentence()
    {
        using VisionModel plain = TinyVision.Make(TinyVision.Mean);
        Should.Throw<EspalierException>(() => new Ftwt().Check(plain, Options)).Message.ShouldContain("batch norm");
        Should.Throw<EspalierException>(() => new SkippingRunner(plain)).Message.ShouldContain("no gates");
        Should.Throw<EspalierException>(() => VisionModel.Outline(VisionConfig.Parse(TinyVision.Vgg.Replace("\"num_classes\"", "\"gates\": {\"layers\": [\"features.1\"]}, \"num_classes\""))))
            .Message.ShouldContain("features.1");
        Should.Throw<EspalierException>(() => VisionConfig.Parse(TinyVision.Vgg.Replace("\"num_classes\"", "\"gates\": {\"layers\": [3]}, \"num_classes\""))).Message.ShouldContain("names of convolutions");
        Should.Throw<EspalierException>(() => new Ftwt { Embedding = 0 }).Message.ShouldContain("embedding");
        Should.Throw<EspalierException>(() => new Ftwt { Cooldown = 1.5 }).Message.ShouldContain("cooldown");
        Should.Throw<EspalierException>(() => new Ftwt { PredictorRate = 0 }).Message.ShouldContain("predictor rate");
    }
}
