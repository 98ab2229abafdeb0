using Espalier.Data;
using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Methods.Retraining;
using Espalier.Tests.Models;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Tests.Training;

public sealed class AdaptationTests
{
    private static readonly TrainingOptions Few = new() { Steps = 4, LearningRate = 1e-2 };

    public static TheoryData<string> Families => TinyModels.Families;

    public static TheoryData<string> Nets => [TinyVision.ResNet, TinyVision.Vgg, TinyVision.Vit, TinyVision.Mlp];

    [Theory]
    [MemberData(nameof(Families))]
    public void An_adapted_language_model_merges_unmerges_and_opens_again(string family)
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create(family);
        byte[] before = Bytes(model);
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 12), start = Logits(model, ids);
        using AdaptationResult result = Adapt(new Scaling(), model);
        result.TrainedParameters.ShouldBe(NetWeight.Of(model).Sum(w => w.Rows));
        Bytes(model).ShouldBe(before); // the base is frozen
        Tensor beside = Logits(model, ids);
        Largest(beside, start).ShouldBeGreaterThan(1e-4);

        result.Adapter.Save(folder.Path);
        AdapterMerge.Fold(result.Adapter, () => Logits(model, ids)).Largest.ShouldBeLessThan(1e-4);
        Largest(Logits(model, ids), beside).ShouldBeLessThan(1e-4);
        result.Adapter.Unmerge();
        Bytes(model).ShouldBe(before);
        Largest(Logits(model, ids), beside).ShouldBe(0);
        result.Dispose();
        Largest(Logits(model, ids), start).ShouldBe(0);
    }

    [Theory]
    [MemberData(nameof(Nets))]
    public void Convolutions_and_linear_maps_of_a_vision_net_carry_adapters(string json)
    {
        using VisionModel net = TinyVision.Make(json);
        using ImageTensors images = TinyImages.Corners(24, net.Config.Channels);
        using var scope = NewDisposeScope();
        Tensor x = TinyVision.Images(net), start = Forward(net, x);
        using AdaptationResult result = new AdaptationTraining(Few) { Batch = 8 }.Run(new Lora { Rank = 2, Train = ["head"] }, net, images);
        Tensor beside = Forward(net, x);
        Largest(beside, start).ShouldBeGreaterThan(1e-5);
        AdapterMerge.Fold(result.Adapter, () => Forward(net, x)).Largest.ShouldBeLessThan(1e-4);
        net.Parameters.ShouldAllBe(p => p.Value.requires_grad);
    }

    [Fact]
    public void An_adapter_that_knows_no_masks_keeps_the_zeros_of_a_pruned_base()
    {
        using LanguageModel model = TinyModels.Create("llama");
        Dictionary<string, SparsityMask> masks = TinyRetraining.Prune(model.Blocks);
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 12);
        using AdaptationResult result = Adapt(new Shifting(), model, masks);
        Tensor beside = Logits(model, ids);
        result.Adapter.Merge();
        Largest(Logits(model, ids), beside).ShouldBeLessThan(1e-4);
        NetWeight.Of(model).ShouldAllBe(w => masks[w.Name].Revived(w.Matrix()) == 0);
    }

    [Fact]
    public void Full_fine_tuning_is_saved_opened_and_keeps_zeros()
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create("llama"), again = TinyModels.Create("llama");
        Dictionary<string, SparsityMask> masks = TinyRetraining.Prune(model.Blocks);
        TinyRetraining.Prune(again.Blocks);
        using var scope = NewDisposeScope();
        using AdaptationResult result = Adapt(new FullTuning(), model, masks);
        result.TrainedParameters.ShouldBe(model.ParameterCount);
        NetWeight.Of(model).All(w => masks[w.Name].Revived(w.Matrix()) == 0).ShouldBeTrue();
        result.Adapter.Save(folder.Path);
        using IAdaptationRun opened = AdapterFile.MethodOf(folder.Path).Begin(AdaptationContext.Of(again, masks) with { Saved = folder.Path });
        Bytes(again).ShouldBe(Bytes(model));
    }

    [Fact]
    public void Merging_above_the_bound_is_refused_and_taken_back()
    {
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 12);
        byte[] before = Bytes(model);
        using AdaptationResult result = Adapt(new Scaling { Lies = true }, model);
        Should.Throw<EspalierException>(() => AdapterMerge.Fold(result.Adapter, () => Logits(model, ids))).Message.ShouldContain("nothing was merged");
        Bytes(model).ShouldBe(before);
        AdapterMerge.Fold(result.Adapter, () => Logits(model, ids), bound: null).Largest.ShouldBeGreaterThan(1e-3);
    }

    [Fact]
    public void A_resumed_adaptation_ends_with_the_same_bytes()
    {
        byte[] whole = Run(null, resume: false);
        using var folder = new TemporaryFolder();
        Run(folder.Path, resume: false, stop: 2);
        Run(folder.Path, resume: true).ShouldBe(whole);

        static byte[] Run(string? state, bool resume, int? stop = null)
        {
            using LanguageModel model = TinyModels.Create("llama");
            using var cancel = new CancellationTokenSource();
            var training = new AdaptationTraining(Few) { Batch = 2, Length = 12, StateFolder = state, Resume = resume, Hooks = stop is { } at ? [new CancelAt(at, cancel)] : [new CancelAt(-1, cancel)] };
            try
            {
                using AdaptationResult result = training.Run(new Lora { Rank = 2, Dropout = 0.2 }, model, Tokens(), cancellation: cancel.Token);
                return [.. result.Adapter.Trainable.SelectMany(t => t.Value.bytes.ToArray())];
            }
            catch (OperationCanceledException)
            {
                return [];
            }
        }
    }

    [Fact]
    public void Words_that_name_nothing_and_doubled_roles_are_refused()
    {
        using LanguageModel model = TinyModels.Create("llama");
        IReadOnlyList<NetWeight> weights = AdaptationContext.Of(model).Weights;
        NetSelection.Weights(weights, ["q_proj", "v_proj"]).Count.ShouldBe(4);
        NetSelection.Weights(weights, ["all", "!mlp.up_proj"]).Count.ShouldBe(12);
        NetSelection.Weights(weights, ["model.layers.1.*"]).Count.ShouldBe(7);
        Should.Throw<EspalierException>(() => NetSelection.Weights(weights, ["qq_proj"])).Message.ShouldContain("q_proj");
        Should.Throw<EspalierException>(() => Adapt(new Lora { Rank = 2, Train = ["q_proj"] }, model)).Message.ShouldContain("trained whole and carry an adapter");
        Should.Throw<EspalierException>(() => Adapt(new Lora { Rank = 100 }, model)).Message.ShouldContain("rank of 100");
        Should.Throw<EspalierException>(() => Adapt(new Lora { Rank = 2, Train = ["nowhere"] }, model)).Message.ShouldContain("nowhere");
    }

    [Fact]
    public void Calibration_shows_every_weight_its_gradients_and_inputs()
    {
        using LanguageModel model = TinyModels.Create("gpt2");
        using var scope = NewDisposeScope();
        AdaptationContext context = AdaptationContext.Of(model) with { Objective = new LanguageModelObjective(model, (step, _) => TinyModels.Ids(model.Config, 2, 12, (int)step)) };
        IReadOnlyList<NetWeight> weights = NetWeight.Of(model);
        var seen = new List<string>();
        context.EachGradient(weights, 2, (w, g) =>
        {
            g.shape.ShouldBe([w.Rows, w.Columns]);
            seen.Add(w.Name);
        });
        seen.Count.ShouldBe(2 * weights.Count);
        context.EachInput(weights, 1, (w, x) => x.shape.ShouldBe([24, w.Columns]));
        weights.All(w => w.Value.grad is null && w.Value.requires_grad).ShouldBeTrue();
    }

    internal static int[] Tokens() => [.. Enumerable.Range(0, 400).Select(i => (i * 7 + (i / 5)) % 37)];

    internal static AdaptationResult Adapt(IAdaptation method, LanguageModel model, IReadOnlyDictionary<string, SparsityMask>? masks = null) =>
        new AdaptationTraining(Few) { Batch = 2, Length = 12 }.Run(method, model, Tokens(), masks);

    internal static Tensor Logits(LanguageModel model, Tensor ids)
    {
        using var _ = no_grad();
        return model.Logits(ids);
    }

    internal static double Largest(Tensor a, Tensor b) => (a - b).abs().max().item<float>();

    internal static byte[] Bytes(LanguageModel model) => [.. model.Tensors.SelectMany(t => t.Value.bytes.ToArray())];

    private static Tensor Forward(VisionModel net, Tensor x)
    {
        using var _ = no_grad();
        return net.Forward(x);
    }

    /// <summary>One factor for each output; the smallest adapter there is.</summary>
    private sealed record Scaling : WeightAdaptation
    {
        public bool Lies { get; init; }

        protected internal override IReadOnlyList<ILinearAdapter> Make(AdaptationContext context, IReadOnlyList<NetWeight> targets) => [.. targets.Select(t => new Factor(t.Rows, Lies))];
    }

    private sealed class Factor(long rows, bool lies) : ILinearAdapter
    {
        private readonly Parameter _factor = Made(rows);

        public IReadOnlyList<(string Name, Parameter Value)> Parameters => [("factor", _factor)];

        public Tensor Weight(Tensor matrix) => matrix.detach() * _factor.unsqueeze(1);

        public Tensor Merge(Tensor matrix) => lies ? matrix * 2 : Weight(matrix).detach();

        public void Dispose() => _factor.Dispose();

        private static Parameter Made(long rows)
        {
            var made = new Parameter(ones(rows));
            made.DetachFromDisposeScope();
            return made;
        }
    }

    /// <summary>Adds one number to every weight, pruned ones too.</summary>
    private sealed record Shifting : WeightAdaptation
    {
        protected internal override IReadOnlyList<ILinearAdapter> Make(AdaptationContext context, IReadOnlyList<NetWeight> targets) => [.. targets.Select(_ => new Shift())];
    }

    private sealed class Shift : ILinearAdapter
    {
        private readonly Parameter _shift = Made();

        public IReadOnlyList<(string Name, Parameter Value)> Parameters => [("shift", _shift)];

        public Tensor Weight(Tensor matrix) => matrix.detach() + _shift;

        public void Dispose() => _shift.Dispose();

        private static Parameter Made()
        {
            var made = new Parameter(zeros(1, 1));
            made.DetachFromDisposeScope();
            return made;
        }
    }

    private sealed class CancelAt(int step, CancellationTokenSource source) : ITrainingHook
    {
        public string Name => "cancel";

        public void AfterStep(TrainingStep at)
        {
            if (at.Index == step)
            {
                source.Cancel();
            }
        }
    }
}
