using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Methods.Retraining;
using Espalier.Tests.Models;
using Espalier.Tests.Models.Vision;
using Espalier.Tests.Training;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Adaptation;

public sealed class S2ftTests
{
    private static readonly S2ft Some = new() { DownRatio = 0.2, UpRatio = 0.1, OutputRatio = 0.5 };

    public static TheoryData<string> Families => TinyModels.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public void Moving_units_changes_no_answer_and_training_changes_the_chosen_parts_alone(string family)
    {
        using LanguageModel model = TinyModels.Create(family);
        S2ft method = family == "gpt_neox" ? Some : Some with { ValueRatio = 0.5 };
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 12), start = AdaptationTests.Logits(model, ids);
        byte[] before = AdaptationTests.Bytes(model);
        Dictionary<string, Tensor> old = model.Tensors.ToDictionary(t => t.Name, t => t.Value.detach().clone());
        using (IAdaptationRun run = method.Begin(AdaptationContext.Of(model)))
        {
            AdaptationTests.Bytes(model).ShouldNotBe(before);
            AdaptationTests.Largest(AdaptationTests.Logits(model, ids), start).ShouldBeLessThan(1e-4);
        }

        AdaptationTests.Bytes(model).ShouldBe(before);

        using AdaptationResult result = AdaptationTests.Adapt(method, model);
        long changed = model.Tensors.Sum(t => (t.Value - old[t.Name]).count_nonzero().item<long>());
        changed.ShouldBeLessThanOrEqualTo(result.TrainedParameters);
        changed.ShouldBeGreaterThan(result.TrainedParameters * 9 / 10);
        result.OptimizerBytes.ShouldBeInRange(8 * result.TrainedParameters, (8 * result.TrainedParameters) + 64);

        using var folder = new TemporaryFolder();
        result.Adapter.Save(folder.Path);
        Tensor beside = AdaptationTests.Logits(model, ids);
        using LanguageModel again = TinyModels.Create(family);
        using IAdaptationRun opened = AdapterFile.MethodOf(folder.Path).Begin(AdaptationContext.Of(again) with { Saved = folder.Path });
        AdaptationTests.Largest(AdaptationTests.Logits(again, ids), beside).ShouldBeLessThan(1e-5);
    }

    [Theory]
    [InlineData(0, 1, 4)]
    [InlineData(1, 2, 5)]
    [InlineData(0, 0, 7)]
    [InlineData(1, 0, 6)]
    public void The_partial_backward_pass_gives_the_gradients_of_the_whole_one(int axis, long start, long end)
    {
        using var scope = NewDisposeScope();
        Tensor weight = randn(7, 6), bias = randn(7), x = randn(2, 3, 6, requires_grad: true), g = randn(2, 3, 7);
        using var partial = new PartialLinear(weight, axis, start, end);
        Tensor y = partial.Forward(x, weight, bias);
        (y * g).sum().backward();
        Tensor whole = weight.detach().clone().requires_grad_(), x2 = x.detach().clone().requires_grad_();
        Tensor y2 = nn.functional.linear(x2, whole, bias);
        (y2 * g).sum().backward();
        AdaptationTests.Largest(y, y2).ShouldBe(0);
        AdaptationTests.Largest(x.grad!, x2.grad!).ShouldBeLessThan(1e-5);
        AdaptationTests.Largest(partial.Part.grad!, whole.grad!.narrow(axis, start, end - start)).ShouldBeLessThan(1e-5);
        using (no_grad())
        {
            partial.Part.zero_();
        }

        weight.narrow(axis, start, end - start).count_nonzero().item<long>().ShouldBe(0); // one memory
    }

    [Theory]
    [InlineData(S2ftSelection.Weight, true)]
    [InlineData(S2ftSelection.Weight, false)]
    [InlineData(S2ftSelection.Activation, true)]
    [InlineData(S2ftSelection.Gradient, true)]
    public void Criteria_choose_as_many_units_as_the_share_says(S2ftSelection selection, bool largest)
    {
        using LanguageModel model = TinyModels.Create("llama");
        S2ft method = Some with { Selection = selection, Largest = largest, ValueRatio = 0.25 };
        AdaptationContext context = AdaptationContext.Of(model) with { Objective = new LanguageModelObjective(model, (step, _) => TinyModels.Ids(model.Config, 2, 12, (int)step)) };
        using var scope = NewDisposeScope();
        IReadOnlyList<S2ftUnits> units = S2ftUnits.Choose(method, context, model);
        units.Where(u => u.Group.Kind is CoupledKind.Neuron).Sum(u => u.Second.Count).ShouldBe((int)(0.2 * 80));
        units.Where(u => u.Group.Kind is CoupledKind.Neuron).Sum(u => u.First.Count).ShouldBe((int)(0.1 * 80));
        units.Where(u => u.Group.Kind is not CoupledKind.Neuron).Sum(u => u.Second.Count).ShouldBe(2);
        units.Where(u => u.Group.Kind is not CoupledKind.Neuron).Sum(u => u.First.Count).ShouldBe(1);
        using AdaptationResult result = AdaptationTests.Adapt(method, model);
        result.TrainedParameters.ShouldBeGreaterThan(0);
    }

    [Fact]
    public void The_largest_weights_are_chosen_over_the_whole_model()
    {
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        using (no_grad())
        {
            model.Blocks[1].Linears.First(l => l.Name.Contains("down_proj")).Linear.weight.narrow(1, 3, 8).fill_(9);
        }

        IReadOnlyList<S2ftUnits> units = S2ftUnits.Choose(new S2ft { DownRatio = 0.1, Selection = S2ftSelection.Weight }, AdaptationContext.Of(model), model);
        units.Count.ShouldBe(1);
        units[0].Second.ShouldBe([3, 4, 5, 6, 7, 8, 9, 10]);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_pruned_base_keeps_its_zeros(bool official)
    {
        using LanguageModel model = TinyModels.Create("llama");
        Dictionary<string, SparsityMask> masks = TinyRetraining.Prune(model.Blocks);
        using var scope = NewDisposeScope();
        using AdaptationResult result = AdaptationTests.Adapt(Some with { OfficialOptimizer = official }, model, masks);
        NetWeight.Of(model).All(w => masks[w.Name].Revived(w.Matrix()) == 0).ShouldBeTrue();
    }

    [Fact]
    public void Two_adapters_of_other_units_add_up_to_both_changes()
    {
        using TemporaryFolder one = new(), two = new();
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        byte[] start = AdaptationTests.Bytes(model);
        using var shelf = new AdapterShelf(AdaptationContext.Of(model));
        NetWeight down = NetWeight.Of(model).First(w => w.Name.Contains("down_proj"));
        Tensor w0 = down.Matrix().clone();
        foreach ((TemporaryFolder folder, S2ft method) in new[] { (one, new S2ft { DownRatio = 0.1 }), (two, new S2ft { DownRatio = 0.1, Selection = S2ftSelection.Weight }) })
        {
            using LanguageModel own = TinyModels.Create("llama");
            using AdaptationResult result = AdaptationTests.Adapt(method, own);
            result.Adapter.Save(folder.Path);
            shelf.Add(folder.Path, folder.Path);
        }

        shelf.Use((one.Path, 1));
        Tensor w1 = down.Matrix().clone();
        shelf.Use((two.Path, 1));
        Tensor w2 = down.Matrix().clone();
        shelf.Use((one.Path, 1), (two.Path, 0.5));
        AdaptationTests.Largest(down.Matrix(), w1 + ((w2 - w0) * 0.5)).ShouldBeLessThan(1e-5);
        shelf.Use();
        AdaptationTests.Bytes(model).ShouldBe(start);
    }

    [Fact]
    public void Adapters_of_disjoint_units_fuse_without_touching_each_other()
    {
        using TemporaryFolder one = new(), two = new();
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        using var shelf = new AdapterShelf(AdaptationContext.Of(model));
        // The largest and the smallest by weight cannot meet while their shares add up to at most 1.
        S2ft largest = new() { DownRatio = 0.2, UpRatio = 0.1, OutputRatio = 0.25, Selection = S2ftSelection.Weight };
        int[] tokens = AdaptationTests.Tokens(), other = [.. tokens.Select(t => 36 - t)];
        Save(one, largest, tokens);
        Save(two, largest with { Largest = false }, other);
        shelf.Add("one", one.Path);
        shelf.Add("two", two.Path);
        NetWeight[] weights = [.. NetWeight.Of(model).Where(w => shelf.Touched.Contains(w.Name))];
        Tensor[] origin = Values(), first = Values(("one", 1)), second = Values(("two", 1)), fused = Values(("one", 1), ("two", 1));
        (long ofOne, long ofTwo) = (0, 0);
        for (int i = 0; i < weights.Length; i++)
        {
            Tensor by1 = first[i] - origin[i], by2 = second[i] - origin[i], m1 = by1.ne(0), m2 = by2.ne(0);
            m1.logical_and(m2).any().item<bool>().ShouldBeFalse();
            fused[i].eq(origin[i] + by1 + by2).all().item<bool>().ShouldBeTrue();
            Same(m1, origin[i] + by1);
            Same(m2, origin[i] + by2);
            Same(m1.logical_or(m2).logical_not(), origin[i]);
            (ofOne, ofTwo) = (ofOne + m1.count_nonzero().item<long>(), ofTwo + m2.count_nonzero().item<long>());

            void Same(Tensor where, Tensor wanted) => fused[i].masked_select(where).eq(wanted.masked_select(where)).all().item<bool>().ShouldBeTrue();
        }

        weights.Length.ShouldBeGreaterThan(2);
        Math.Min(ofOne, ofTwo).ShouldBeGreaterThan(0);

        Tensor[] Values(params (string, double)[] mix)
        {
            shelf.Use(mix);
            return [.. weights.Select(w => w.Matrix().clone())];
        }

        static void Save(TemporaryFolder folder, S2ft method, int[] tokens)
        {
            using LanguageModel own = TinyModels.Create("llama");
            using AdaptationResult result = new AdaptationTraining(new TrainingOptions { Steps = 4, LearningRate = 1e-2 }) { Batch = 2, Length = 12 }.Run(method, own, tokens);
            result.Adapter.Save(folder.Path);
        }
    }

    [Fact]
    public void Steps_leave_no_tensor_behind()
    {
        using LanguageModel model = TinyModels.Create("llama");
        long Run(int steps)
        {
            using AdaptationResult result = new AdaptationTraining(new TrainingOptions { Steps = steps, LearningRate = 1e-3 }) { Batch = 2, Length = 12 }.Run(Some, model, AdaptationTests.Tokens());
            GC.Collect();
            GC.WaitForPendingFinalizers();
            return Parameters.LiveTensors;
        }

        Run(2);
        long few = Run(2);
        Run(12).ShouldBeLessThanOrEqualTo(few);
    }

    [Fact]
    public void A_share_too_small_for_a_unit_is_told_and_bad_words_are_refused()
    {
        using LanguageModel model = TinyModels.Create("gpt_neox");
        AdaptationContext context = AdaptationContext.Of(model);
        Should.Throw<EspalierException>(() => AdaptationTests.Adapt(new S2ft { DownRatio = 0.001 }, model)).Message.ShouldContain("nothing to train");
        Should.Throw<EspalierException>(() => new S2ft { DownRatio = 1.5 }).Message.ShouldContain("from 0 to 1");
        Should.Throw<EspalierException>(() => new S2ft { DownRatio = 0 }.Begin(context)).Message.ShouldContain("every share is 0");
        Should.Throw<EspalierException>(() => new S2ft { ValueRatio = 0.5 }.Begin(context)).Message.ShouldContain("value_ratio");
        using var net = TinyVision.Make(TinyVision.Vit);
        Should.Throw<EspalierException>(() => new S2ft().Begin(AdaptationContext.Of(net))).Message.ShouldContain("language model");
        Should.Throw<EspalierException>(() => S2ftPermutation.Of([1, 1], [], 4)).Message.ShouldContain("twice");
        Should.Throw<EspalierException>(() => S2ftPermutation.Of([], [4], 4)).Message.ShouldContain("no unit 4");
    }
}
