using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Models.Vision;

public sealed class VisionCutTests
{
    [Theory]
    [MemberData(nameof(TinyVision.Families), MemberType = typeof(TinyVision))]
    public void Cutting_units_that_are_zero_changes_nothing(string json)
    {
        using VisionModel model = TinyVision.Make(json);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        model.Groups.ShouldNotBeEmpty();
        Dictionary<string, IReadOnlyCollection<int>> remove = model.Groups.ToDictionary(g => g.Owner, g => (IReadOnlyCollection<int>)[0, g.Count - 2]);
        Tensor images = TinyVision.Images(model), full = model.Forward(images);
        foreach (CoupledGroup group in model.Groups)
        {
            Zero(model, group, remove[group.Owner]);
        }

        Tensor expected = model.Forward(images);
        expected.allclose(full).ShouldBeFalse("the units must have counted for something");
        foreach (CoupledGroup group in model.Groups)
        {
            using VisionModel one = model.Cut(new Dictionary<string, IReadOnlyCollection<int>> { [group.Owner] = remove[group.Owner] });
            one.Forward(images).allclose(expected, 1e-4, 1e-5).ShouldBeTrue(group.ToString());
        }

        using VisionModel cut = model.Cut(remove);
        cut.Forward(images).allclose(expected, 1e-4, 1e-5).ShouldBeTrue();
        cut.ParameterCount.ShouldBeLessThan(model.ParameterCount);
        cut.Macs.ShouldBeLessThan(model.Macs);
        using var folder = new TemporaryFolder();
        cut.Save(folder.Path);
        using VisionModel again = VisionModel.Load(folder.Path);
        again.Forward(images).eq(cut.Forward(images)).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void A_net_is_cut_twice_as_at_once()
    {
        using VisionModel model = TinyVision.Make(TinyVision.ResNet);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor images = TinyVision.Images(model);
        using VisionModel once = model.Cut(Remove(("conv1", [1, 3]), ("layer2.0.conv2", [0, 2, 5])));
        using VisionModel first = model.Cut(Remove(("conv1", [1]), ("layer2.0.conv2", [0, 5])));
        using VisionModel twice = first.Cut(Remove(("conv1", [2]), ("layer2.0.conv2", [1])));
        twice.Forward(images).eq(once.Forward(images)).all().item<bool>().ShouldBeTrue();
        ((PadShortcutLayer)once.Layer("layer2.0.shortcut")).Map.ShouldBe([-1, -1, 1, -1, -1], "channel 2 of the stream, now 1, still feeds channel 4, now 2");
    }

    [Fact]
    public void Groups_name_everything_that_goes_with_a_channel()
    {
        using VisionModel model = TinyVision.Make(TinyVision.ResNet);
        CoupledGroup inner = model.Groups.Single(g => g.Owner == "layer1.0.conv1");
        inner.Patterns.Select(p => (p.Tensor, p.Axis)).ShouldBe([
            ("layer1.0.conv1.weight", 0), ("layer1.0.bn1.weight", 0), ("layer1.0.bn1.bias", 0), ("layer1.0.bn1.running_mean", 0), ("layer1.0.bn1.running_var", 0), ("layer1.0.conv2.weight", 1)]);
        CoupledGroup stream = model.Groups.Single(g => g.Owner == "conv1");
        stream.Patterns.Select(p => p.Tensor).ShouldContain("layer1.0.conv2.weight");
        stream.Patterns.Where(p => p.Axis == 1).Select(p => p.Tensor).ShouldBe(["layer1.0.conv1.weight", "layer2.0.conv1.weight"]);
        using VisionModel flat = TinyVision.Make(TinyVision.Vgg);
        flat.Groups.Single(g => g.Owner == "features.4").Reader.ShouldBe(new SlicePattern("classifier.0.weight", 1, 0, 16, 16));
    }

    [Fact]
    public void Impossible_cuts_are_refused()
    {
        using VisionModel model = TinyVision.Make(TinyVision.Mlp);
        Says(("fc9", [0])).ShouldContain("fc1");
        Says(("fc1", [6])).ShouldContain("no unit 6");
        Says(("fc2", [0, 1, 2, 3, 4])).ShouldContain("keep at least one");
        string Says((string, int[]) removal) => Should.Throw<EspalierException>(() => model.Cut(Remove(removal))).Message;
    }

    private static Dictionary<string, IReadOnlyCollection<int>> Remove(params (string Owner, int[] Units)[] removals) =>
        removals.ToDictionary(r => r.Owner, r => (IReadOnlyCollection<int>)r.Units);

    private static void Zero(VisionModel model, CoupledGroup group, IReadOnlyCollection<int> units)
    {
        Dictionary<string, Tensor> tensors = model.Tensors.ToDictionary(t => t.Name, t => t.Value);
        foreach (TensorSlice slice in units.SelectMany(group.Slices).Where(s => s.Axis == 0))
        {
            tensors[slice.Tensor].narrow(0, slice.Start, slice.Length).zero_();
        }
    }
}
