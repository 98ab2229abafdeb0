using Espalier.Checkpoints;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Tests.Sparsity;

public sealed class TensorPictureTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_tile_holds_the_share_of_weights_that_are_kept()
    {
        using SafeTensorsFile file = Write(arange(16, ScalarType.Float32).reshape(4, 4).remainder(4).ge(2).to(ScalarType.Float32));
        TensorPicture whole = TensorPicture.Of(file, "w", tiles: 2);
        (whole.Rows, whole.Columns, whole.TilesDown, whole.TilesAcross).ShouldBe((4L, 4L, 2, 2));
        whole.Kept.ShouldBe([0, 255, 0, 255]);
        TensorPicture.Of(file, "w", tiles: 1).Kept.ShouldBe([128]);
        TensorPicture.Of(file, "w").Kept.ShouldBe([.. Enumerable.Range(0, 16).Select(i => (byte)(i % 4 >= 2 ? 255 : 0))], "never more tiles than weights");
    }

    [Fact]
    public void A_part_is_cut_out_and_what_lies_outside_is_moved_inside()
    {
        using SafeTensorsFile file = Write(eye(6));
        TensorPicture part = TensorPicture.Of(file, "w", row: 2, column: 1, height: 2, width: 3);
        (part.Row, part.Column, part.Height, part.Width).ShouldBe((2L, 1L, 2L, 3L));
        part.Kept.ShouldBe([0, 255, 0, 0, 0, 255]);
        TensorPicture corner = TensorPicture.Of(file, "w", row: 100, column: -5, height: 100, width: 100);
        (corner.Row, corner.Column, corner.Height, corner.Width).ShouldBe((5L, 0L, 1L, 6L));
    }

    [Fact]
    public void One_weight_that_is_left_in_a_large_tile_still_shows()
    {
        using Tensor weight = zeros(100, 100);
        weight[50, 50] = tensor(1f);
        using SafeTensorsFile file = Write(weight);
        TensorPicture.Of(file, "w", tiles: 1).Kept.ShouldBe([1]);
    }

    [Fact]
    public void Other_ranks_are_read_as_matrices()
    {
        using (SafeTensorsFile vector = Write(ones(5)))
        {
            TensorPicture.Of(vector, "w").ShouldSatisfyAllConditions(p => p.Rows.ShouldBe(1), p => p.Columns.ShouldBe(5));
        }

        using SafeTensorsFile convolution = Write(ones(4, 3, 2, 2), "c.safetensors");
        TensorPicture.Of(convolution, "w").ShouldSatisfyAllConditions(p => p.Rows.ShouldBe(4), p => p.Columns.ShouldBe(12));
    }

    [Fact]
    public void Questions_that_cannot_be_answered_are_refused()
    {
        using SafeTensorsFile file = Write(ones(2, 2));
        Should.Throw<EspalierException>(() => TensorPicture.Of(file, "v")).Message.ShouldContain("no tensor 'v'");
        Should.Throw<EspalierException>(() => TensorPicture.Of(file, "w", tiles: 513)).Message.ShouldContain("1 to 512");
    }

    [Fact]
    public void A_histogram_counts_every_finite_weight_once_and_zeros_apart()
    {
        using SafeTensorsFile file = Write(tensor(new[] { 0f, 0f, 1f, 1f, -1f, 0.5f, float.NaN, float.PositiveInfinity }));
        var (top, counts, none, mean, deviation) = TensorPicture.Histogram(file, "w", bins: 5);
        top.ShouldBe(1);
        counts.ShouldBe([1, 0, 0, 1, 2]);
        none.ShouldBe(2);
        mean.ShouldBe(0.25, 1e-6);
        deviation.ShouldBe(Math.Sqrt(2.875 / 5), 1e-6);
        using SafeTensorsFile empty = Write(zeros(3, 3), "z.safetensors");
        TensorPicture.Histogram(empty, "w", bins: 3).ShouldSatisfyAllConditions(h => h.Counts.ShouldBe([0, 0, 0]), h => h.Zeros.ShouldBe(9));
    }

    [Fact]
    public void An_outlier_does_not_press_all_others_into_one_bin()
    {
        using Tensor weight = randn(2000, generator: new Generator(0));
        weight[0] = tensor(1000f);
        using SafeTensorsFile file = Write(weight);
        var (top, counts, _, _, deviation) = TensorPicture.Histogram(file, "w");
        top.ShouldBe(5 * deviation, 1e-3);
        counts.Sum().ShouldBe(2000);
        counts[^1].ShouldBe(1);
    }

    private SafeTensorsFile Write(Tensor weight, string name = "w.safetensors")
    {
        using (var writer = SafeTensorsWriter.Create(_folder[name], [ElementTypes.Plan("w", weight.dtype, weight.shape)]))
        {
            writer.Write("w", weight);
            writer.Commit();
        }

        return SafeTensorsFile.Open(_folder[name]);
    }
}
