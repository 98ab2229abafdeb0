using CsCheck;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Tests.Sparsity;

public sealed class GlobalSelectionTests
{
    /// <summary>Against the definition: sort all scores stably by (score, layer, index) and drop the first ⌊n·s⌋.</summary>
    [Fact]
    public void Removes_exactly_the_lowest_share_and_breaks_ties_by_position() =>
        Gen.Select(Gen.Int[0, 6].Array[1, 40].Array[1, 5], Gen.Double[0, 0.99]).Sample((layers, sparsity) =>
        {
            using var scope = NewDisposeScope();
            float[][] scores = [.. layers.Select(l => l.Select(v => v == 6 ? 1e-30f : v * 0.37f).ToArray())];
            var flat = scores.SelectMany((l, i) => l.Select((v, k) => (Value: v, Layer: i, Index: k))).ToList();
            int goes = (int)Math.Floor(flat.Count * sparsity);
            var expected = flat.OrderBy(e => e.Value).ThenBy(e => e.Layer).ThenBy(e => e.Index).Take(goes).Select(e => (e.Layer, e.Index)).ToHashSet();

            var selection = new GlobalSelection(sparsity);
            Tensor[] tensors = [.. scores.Select(s => tensor(s).reshape(1, -1))];
            foreach (Tensor t in tensors)
            {
                selection.CountHigh(t, "layer");
            }

            foreach (Tensor t in tensors)
            {
                selection.CountLow(t, "layer");
            }

            for (int i = 0; i < tensors.Length; i++)
            {
                bool[] keep = selection.Keep(tensors[i], "layer").data<bool>().ToArray();
                for (int k = 0; k < keep.Length; k++)
                {
                    keep[k].ShouldBe(!expected.Contains((i, k)));
                }
            }
        }, iter: 200);

    [Fact]
    public void Scores_that_are_not_numbers_are_refused_by_name()
    {
        using var scope = NewDisposeScope();
        var selection = new GlobalSelection(0.5);
        Should.Throw<EspalierException>(() => selection.CountHigh(tensor(new[] { 1f, float.NaN }).reshape(1, 2), "model.layers.0.mlp.up_proj.weight"))
            .Message.ShouldContain("model.layers.0.mlp.up_proj.weight");
    }
}
