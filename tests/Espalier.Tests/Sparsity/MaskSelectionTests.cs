using CsCheck;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Tests.Sparsity;

public sealed class MaskSelectionTests
{
    // Few distinct values, both signs and both zeros: ties everywhere.
    private static readonly Gen<float[]> Scores = Gen.OneOfConst(-2f, -0.5f, -0f, 0f, 0.25f, 0.5f, 1f, 1e-30f, 3e8f).Array[1, 60];

    [Fact]
    public void A_layer_loses_exactly_the_first_of_its_scores_in_stable_order() =>
        Gen.Select(Scores, Gen.Double[0, 0.99]).Sample((scores, sparsity) =>
        {
            using var scope = NewDisposeScope();
            int count = (int)Math.Floor(scores.Length * sparsity);
            HashSet<int> pruned = [.. scores.Index().OrderBy(s => s.Item).ThenBy(s => s.Index).Take(count).Select(s => s.Index)];
            bool[] keep = MaskSelection.KeepLargestPerLayer(tensor(scores), sparsity, "w").data<bool>().ToArray();
            keep.ShouldBe(Enumerable.Range(0, scores.Length).Select(i => !pruned.Contains(i)));
        }, iter: 300);

    [Fact]
    public void Rows_and_float64_scores_are_ranked_as_the_definition_says() =>
        Gen.Select(Gen.Double[-1, 1].Array[12], Gen.Double[0, 0.99]).Sample((values, sparsity) =>
        {
            using var scope = NewDisposeScope();
            double[] close = [.. values.Select((v, i) => 1 + (i % 3 * 1e-12) + (Math.Round(v) * 1e-13))]; // equal in float32
            Tensor score = tensor(close).reshape(2, 6);
            bool[] keep = MaskSelection.KeepLargestPerRow(score, sparsity, "w").data<bool>().ToArray();
            for (int row = 0; row < 2; row++)
            {
                int from = row * 6;
                HashSet<int> pruned = [.. Enumerable.Range(from, 6).OrderBy(i => close[i]).ThenBy(i => i).Take((int)Math.Floor(6 * sparsity))];
                Enumerable.Range(from, 6).ShouldAllBe(i => keep[i] == !pruned.Contains(i));
            }
        }, iter: 100);

    [Fact]
    public void Groups_lose_exactly_their_smallest_and_the_lower_column_first()
    {
        using var scope = NewDisposeScope();
        Tensor score = tensor(new[] { 1f, 1, 1, 1, 4, 3, 2, 1 }).reshape(1, 8);
        Tensor keep = MaskSelection.KeepLargestPerGroup(score, 2, 4, "w");
        keep.data<bool>().ToArray().ShouldBe([false, false, true, true, true, true, false, false]);
        MaskSelection.IsSemiStructured(keep, 2, 4).ShouldBeTrue();
        MaskSelection.IsSemiStructured(keep, 1, 4).ShouldBeFalse();
        MaskSelection.Sparsity(keep).ShouldBe(0.5);
    }

    [Fact]
    public void Masks_nest_as_sparsity_grows() =>
        Gen.Select(Scores, Gen.Double[0, 0.5], Gen.Double[0, 0.49]).Sample((scores, low, more) =>
        {
            using var scope = NewDisposeScope();
            Tensor few = MaskSelection.KeepLargestPerLayer(tensor(scores), low, "w");
            Tensor many = MaskSelection.KeepLargestPerLayer(tensor(scores), low + more, "w");
            many.logical_and(few.logical_not()).any().item<bool>().ShouldBeFalse();
        }, iter: 100);

    [Fact]
    public void A_large_layer_is_selected_exactly()
    {
        using var scope = NewDisposeScope();
        using var generator = new Seed(1).Generator("scores");
        Tensor score = randn([512, 700], generator: generator).abs().mul(100).round(); // many ties
        Tensor keep = MaskSelection.KeepLargestPerLayer(score, 0.7, "w");
        keep.logical_not().sum().item<long>().ShouldBe((long)Math.Floor(512 * 700 * 0.7));
        score.masked_select(keep).min().item<float>().ShouldBeGreaterThanOrEqualTo(score.masked_select(keep.logical_not()).max().item<float>());
    }

    [Fact]
    public void What_cannot_be_ranked_is_refused_with_the_layers_name()
    {
        using var scope = NewDisposeScope();
        Tensor bad = tensor(new[] { 1f, float.NaN, 2, float.PositiveInfinity }).reshape(1, 4);
        Should.Throw<EspalierException>(() => MaskSelection.KeepLargestPerRow(bad, 0.5, "up_proj")).Message.ShouldContain("up_proj");
        Should.Throw<EspalierException>(() => MaskSelection.KeepLargestPerLayer(bad, 0.5, "up_proj")).Message.ShouldContain("up_proj");
        Should.Throw<EspalierException>(() => MaskSelection.KeepLargestPerGroup(bad, 2, 4, "up_proj")).Message.ShouldContain("up_proj");
        Should.Throw<EspalierException>(() => MaskSelection.KeepLargestPerGroup(ones(2, 6), 2, 4, "up_proj")).Message.ShouldContain("groups of 4");
        Should.Throw<EspalierException>(() => MaskSelection.KeepLargestPerGroup(ones(2, 8), 5, 4, "up_proj"));
        Should.Throw<EspalierException>(() => MaskSelection.KeepLargestPerRow(ones(2, 6), 1, "up_proj"));
        Should.Throw<EspalierException>(() => MaskSelection.Keep(ones(2, 6), Pattern.Unstructured(0.5), Scope.Global, 0.5, "up_proj")).Message.ShouldContain("global");
    }

    [Fact]
    public void Counts_come_from_a_double_product() => MaskSelection.PruneCount(10, 0.7).ShouldBe(7);
}
