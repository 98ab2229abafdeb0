using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class IfmTests
{
    [Fact]
    public void The_reference_cases_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "ifm")).Lines).ShouldBe("ifm: 11/11");

    [Fact]
    public void The_worked_example_of_the_card()
    {
        using var scope = NewDisposeScope();
        var values = new Dictionary<string, Tensor> { ["in"] = tensor(new float[,] { { 1, 0 }, { 1, 0.1f }, { -3, 0 } }), ["out"] = tensor(new float[,] { { 2, 2.2f, -1 } }) };
        var group = new FeatureGroup("layer", 3, [new("in", 0, 1, FeatureRule.Sum), new("out", 1, 1, FeatureRule.Mean)]);
        (int first, int second, double closest, double farthest) = group.Closest(values)!.Value;
        (first, second).ShouldBe((0, 1));
        closest.ShouldBe(0.05, 1e-6);
        farthest.ShouldBe(26.25, 1e-5);
        group.Merge(values, first, second, 1e-5);
        values["in"].data<float>().ToArray().ShouldBe([-3, 0, 2, 0.1f]);
        values["out"].data<float>().ToArray().ShouldBe([-1, 2.1f], 1e-6f);
        group.Counts.ShouldBe([1, 2]);
        group.GroupOf.ShouldBe([1, 1, 0]);
        (_, _, closest, farthest) = group.Closest(values)!.Value;
        closest.ShouldBe(farthest);
    }

    [Theory]
    [InlineData(TinyVision.Vgg, BatchNormMerge.StdSum)]
    [InlineData(TinyVision.Vgg, BatchNormMerge.Fold)]
    [InlineData(TinyVision.Mean, BatchNormMerge.StdSum)]
    [InlineData(TinyVision.LeNet, BatchNormMerge.Sum)]
    [InlineData(TinyVision.Mlp, BatchNormMerge.StdSum)]
    [InlineData(TinyVision.ResNet, BatchNormMerge.StdSum)]
    public void Duplicates_are_merged_first_and_change_nothing(string json, BatchNormMerge rule)
    {
        using var scope = NewDisposeScope();
        using VisionModel net = TinyVision.Make(json);
        var method = new Ifm { Beta = 1e-6, BatchNorm = rule };
        Duplicate(net, method);
        Tensor images = TinyVision.Images(net), before = net.Forward(images);
        using IfmResult merged = method.Merge(net);
        merged.Layers.ShouldAllBe(l => l.Left == l.Original - 1 && l.LargestGroup == 2);
        merged.GroupOf.ShouldAllBe(g => g[1] == g[0]);
        merged.Net.Forward(images).allclose(before, 1e-4, 1e-4).ShouldBeTrue();
        net.Forward(images).eq(before).all().item<bool>().ShouldBeTrue();
        if (json == TinyVision.Vgg)
        {
            // Added variances do not keep even duplicates.
            using IfmResult sum = (method with { BatchNorm = BatchNormMerge.Sum }).Merge(net);
            sum.Net.Forward(images).allclose(before, 1e-4, 1e-4).ShouldBeFalse();
        }
    }

    [Fact]
    public void A_larger_beta_never_leaves_more_and_a_share_is_kept()
    {
        using VisionModel net = TinyVision.Make(TinyVision.Vgg);
        GC.Collect(); // what earlier tests left to the collector goes before the count, not during it
        GC.WaitForPendingFinalizers();
        long live = Parameters.LiveTensors;
        long last = long.MaxValue;
        foreach (double beta in (double[])[0.01, 0.4, 0.7, 0.95])
        {
            using IfmResult merged = new Ifm { Beta = beta }.Merge(net);
            merged.Net.ParameterCount.ShouldBeLessThanOrEqualTo(last);
            last = merged.Net.ParameterCount;
        }

        using (IfmResult half = new Ifm().MergeTo(net, 0.7))
        {
            half.Net.ParameterCount.ShouldBeLessThanOrEqualTo((long)(0.7 * net.ParameterCount));
        }

        using (IfmResult capped = new Ifm { Beta = 0.95, MaxRatio = 0.2 }.Merge(net))
        {
            capped.Layers.ShouldAllBe(l => l.Original - l.Left <= Math.Ceiling(0.2 * l.Original));
        }

        Parameters.LiveTensors.ShouldBe(live);
    }

    [Fact]
    public void Bad_input_gets_a_sentence()
    {
        using VisionModel net = TinyVision.Make(TinyVision.Vgg), vit = TinyVision.Make(TinyVision.Vit);
        Sentence(() => new Ifm { Beta = 1 }).ShouldContain("beta");
        Sentence(() => new Ifm { MaxRatio = 2 }).ShouldContain("max_ratio");
        Sentence(() => new Ifm().Merge(vit)).ShouldContain("GELU");
        Sentence(() => new Ifm { Layers = ["nothing"] }.Merge(net)).ShouldContain("nothing");
        Sentence(() => new Ifm().MergeTo(net, 0.001)).ShouldContain("cannot bring");
        Sentence(() => new Ifm().MergeSets(net, new Dictionary<string, IReadOnlyList<int[]>> { ["features.0"] = [[0, 0]] })).ShouldContain("twice");
    }

    private static string Sentence(Action act) => Should.Throw<EspalierException>(act).Message;

    // The second channel of every group that merges is made the first's twin; both feed what reads them.
    private static void Duplicate(VisionModel net, Ifm method)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        Dictionary<string, Tensor> values = net.Tensors.ToDictionary(t => t.Name, t => t.Value);
        foreach (SlicePattern slice in method.Mergeable(net).SelectMany(g => g.Patterns))
        {
            values[slice.Tensor].narrow(slice.Axis, slice.At(1).Start, slice.Length).copy_(values[slice.Tensor].narrow(slice.Axis, slice.At(0).Start, slice.Length).clone());
        }
    }
}
