using Espalier.Data;
using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Methods.Retraining;
using Espalier.Tests.Models;
using Espalier.Tests.Models.Vision;
using Espalier.Tests.Training;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Adaptation;

/// <summary>What svfit, soma, sara and sst promise alike, as adaptations of whole nets.</summary>
public sealed class SpectralSystemsTests
{
    private static readonly TrainingOptions Few = new() { Steps = 6, LearningRate = 1e-2, WeightDecay = 0.01 };

    public static TheoryData<string> Systems => ["svfit", "svfit relative", "soma", "soma pissa", "sara", "sst"];

    private static IAdaptation Make(string system) => system switch
    {
        "svfit" => new SvFit { Fraction = 0.9 },
        "svfit relative" => new SvFit { Rank = 3, Relative = true },
        "soma" => new Soma { Rank = 2, Alpha = 3 },
        "soma pissa" => new Soma { Rank = 2, FirstEigen = true, StartIndex = 0 },
        "sara" => new Sara { Ratio = 0.3, RateByThreshold = false, RankAboveSide = 4, RankOfConvolutions = true, ProgressiveStep = 3 },
        _ => new Sst { Rank = 3, Exchange = 2, Warmup = 1 },
    };

    [Theory]
    [MemberData(nameof(Systems))]
    public void An_adapted_language_model_is_saved_opened_merged_and_unmerged(string system)
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using LanguageModel model = TinyModels.Create("llama"), again = TinyModels.Create("llama");
        Tensor ids = TinyModels.Ids(model.Config, 2, 12), start = AdaptationTests.Logits(model, ids);
        using AdaptationResult result = Train(Make(system), model);
        Tensor beside = AdaptationTests.Logits(model, ids);
        AdaptationTests.Largest(beside, start).ShouldBeGreaterThan(1e-4);
        result.Training.Losses.ShouldAllBe(l => double.IsFinite(l));
        result.TrainedParameters.ShouldBeLessThan(result.NetParameters);
        result.Adapter.Save(folder.Path);

        using (IAdaptationRun opened = AdapterFile.MethodOf(folder.Path).Begin(AdaptationContext.Of(again) with { Saved = folder.Path }))
        {
            AdaptationTests.Largest(AdaptationTests.Logits(again, ids), beside).ShouldBeLessThan(1e-4);
        }

        AdapterMerge.Fold(result.Adapter, () => AdaptationTests.Logits(model, ids)).Largest.ShouldBeLessThan(1e-3);
        result.Adapter.Unmerge();
        AdaptationTests.Largest(AdaptationTests.Logits(model, ids), beside).ShouldBeLessThan(1e-5);
    }

    [Theory]
    [MemberData(nameof(Systems))]
    public void A_vision_net_learns_by_it_and_nothing_is_left_behind(string system)
    {
        using ImageTensors images = TinyImages.Corners(24);
        foreach (string json in (string[])[TinyVision.ResNet, TinyVision.Vit, TinyVision.Mlp])
        {
            using VisionModel net = TinyVision.Make(json);
            using ImageTensors own = TinyImages.Corners(24, net.Config.Channels);
            long before = Parameters.LiveTensors;
            using (AdaptationResult result = new AdaptationTraining(Few) { Batch = 8 }.Run(Make(system), net, own))
            {
                using var scope = NewDisposeScope();
                Tensor x = TinyVision.Images(net);
                AdapterMerge.Fold(result.Adapter, () => Forward(net, x)).Largest.ShouldBeLessThan(1e-3);
            }

            net.ClearGradients();
            Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
        }
    }

    [Theory]
    [MemberData(nameof(Systems))]
    public void Zeros_of_a_pruned_base_stay(string system)
    {
        using LanguageModel model = TinyModels.Create("llama");
        Dictionary<string, SparsityMask> masks = TinyRetraining.Prune(model.Blocks);
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 12);
        using AdaptationResult result = Train(Make(system), model, masks);
        AdapterMerge.Fold(result.Adapter, () => AdaptationTests.Logits(model, ids)).Largest.ShouldBeLessThan(1e-3);
        NetWeight.Of(model).ShouldAllBe(w => masks[w.Name].Revived(w.Matrix()) == 0);
    }

    [Theory]
    [MemberData(nameof(Systems))]
    public void A_resumed_run_ends_with_the_same_bytes(string system)
    {
        byte[] whole = Run(null, resume: false);
        using var folder = new TemporaryFolder();
        Run(folder.Path, resume: false, cancelAt: 3).ShouldBeEmpty();
        Run(folder.Path, resume: true).ShouldBe(whole);

        byte[] Run(string? state, bool resume, int cancelAt = -1)
        {
            using LanguageModel model = TinyModels.Create("llama");
            using var cancel = new CancellationTokenSource();
            var hook = new TestHook
            {
                OnAfterStep = step =>
                {
                    if (step.Index == cancelAt)
                    {
                        cancel.Cancel();
                    }
                },
            };
            try
            {
                using AdaptationResult result = new AdaptationTraining(Few) { Batch = 2, Length = 12, StateFolder = state, Resume = resume, Hooks = [hook] }
                    .Run(Make(system), model, AdaptationTests.Tokens(), cancellation: cancel.Token);
                return [.. result.Adapter.Trainable.SelectMany(t => t.Value.bytes.ToArray())];
            }
            catch (OperationCanceledException)
            {
                return [];
            }
        }
    }

    [Fact]
    public void An_adapter_of_another_base_is_refused()
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create("llama"), other = TinyModels.Create("llama", seed: 5);
        foreach (string system in (string[])["svfit", "sara"])
        {
            string own = Directory.CreateDirectory(folder[system]).FullName;
            using AdaptationResult result = Train(Make(system), model);
            result.Adapter.Save(own);
            Should.Throw<EspalierException>(() => AdapterFile.MethodOf(own).Begin(AdaptationContext.Of(other) with { Saved = own })).Message.ShouldContain("checkpoint that it was");
        }
    }

    [Fact]
    public void What_a_net_cannot_carry_is_a_sentence()
    {
        using LanguageModel model = TinyModels.Create("llama");
        using VisionModel net = TinyVision.Make(TinyVision.Mlp);
        using ImageTensors images = TinyImages.Corners(24, 1);
        Should.Throw<EspalierException>(() => Train(new SvFit { Rank = 100 }, model)).Message.ShouldContain("svfit.rank is 100");
        Should.Throw<EspalierException>(() => Train(new Soma { Rank = 100 }, model)).Message.ShouldContain("the rank 100");
        Should.Throw<EspalierException>(() => Train(new Soma { Rank = 2, StartIndex = 2 }, model)).Message.ShouldContain("this net has 2 blocks");
        Should.Throw<EspalierException>(() => Train(new Sara { Threshold = 1e-30, RateByThreshold = false }, model)).Message.ShouldContain("nothing to train");
        Should.Throw<EspalierException>(() => Train(new Sara { Threshold = 0.1 }, model)).Message.ShouldContain("rate_by_threshold");
        Should.Throw<EspalierException>(() => new AdaptationTraining(Few with { Optimizer = "sgd" }).Run(new Sara(), net, images)).Message.ShouldContain("masked adamw");
    }

    [Fact]
    public void Soma_freezes_early_blocks_and_counts_blocks_by_names_or_places()
    {
        using LanguageModel model = TinyModels.Create("llama");
        using VisionModel resnet = TinyVision.Make(TinyVision.ResNet), mlp = TinyVision.Make(TinyVision.Mlp);
        Soma.BlocksOf(NetWeight.Of(model)).ShouldBe(Enumerable.Repeat((int?)0, 7).Concat(Enumerable.Repeat((int?)1, 7)));
        IReadOnlyList<int?> blocks = Soma.BlocksOf(NetWeight.Of(resnet));
        blocks[0].ShouldBeNull("the stem");
        blocks[^1].ShouldBeNull("the head");
        blocks.Max().ShouldBe(2);
        Soma.BlocksOf(NetWeight.Of(mlp)).ShouldBe([0, 1, null]);
        using var run = (WeightAdaptationRun)new Soma { Rank = 2, StartIndex = 1 }.Begin(AdaptationContext.Of(resnet));
        run.Targets.ShouldAllBe(t => !t.Module.StartsWith("layer1", StringComparison.Ordinal) && t.Module != "conv1");
        string head = NetWeight.Of(resnet)[^1].Module;
        run.Trainable.ShouldContain(t => t.Name == $"{head}.weight");
        run.Groups!($"{head}.bias").RateMultiplier.ShouldBe(1);
        run.Groups!("layer2.0.conv1.lora_A").RateMultiplier.ShouldBe(0.5);
    }

    [Fact]
    public void Soma_anneals_the_decay_of_the_optimiser_and_leaves_what_has_none()
    {
        using var net = new TinyNet();
        using var decayed = new AdamW([new OptimizedParameter("w1", net.W1), new OptimizedParameter("bias", net.Bias, new ParameterGroup(DecayMultiplier: 0))], weightDecay: 0.5);
        using var scope = NewDisposeScope();
        foreach (var parameter in new[] { net.W1, net.Bias })
        {
            parameter.grad = zeros_like(parameter);
        }

        Tensor before = net.W1.detach().clone();
        decayed.DecayMultiplier = 0.1;
        decayed.Step(1);
        net.W1.allclose(before * 0.95).ShouldBeTrue();
        net.Bias.count_nonzero().item<long>().ShouldBe(0);
    }

    [Fact]
    public void An_optimiser_begins_anew_for_a_parameter_that_is_restarted()
    {
        using TinyNet one = new(), two = new();
        using AdamW first = new([.. one.Trainable.Select(t => new OptimizedParameter(t.Name, t.Value))]), second = new([.. two.Trainable.Select(t => new OptimizedParameter(t.Name, t.Value))]);
        using var scope = NewDisposeScope();
        one.Loss(0, 0).backward();
        first.Step(0);
        first.Restart("w1");
        Gradients.Clear(one.Trainable);
        one.Loss(1, 0).backward();
        two.Loss(1, 0).backward();
        first.Step(0.01);
        second.Step(0.01);
        one.W1.allclose(two.W1).ShouldBeTrue();
        one.W2.allclose(two.W2).ShouldBeFalse();
    }

    private static AdaptationResult Train(IAdaptation method, LanguageModel model, IReadOnlyDictionary<string, SparsityMask>? masks = null) =>
        new AdaptationTraining(Few) { Batch = 2, Length = 12 }.Run(method, model, AdaptationTests.Tokens(), masks);

    private static Tensor Forward(VisionModel net, Tensor x)
    {
        using var frozen = no_grad();
        return net.Forward(x);
    }
}
