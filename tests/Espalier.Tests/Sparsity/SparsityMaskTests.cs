using CsCheck;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Tests.Sparsity;

public sealed class SparsityMaskTests
{
    private static readonly Gen<(int Rows, int Columns, int Seed)> Shapes = Gen.Select(Gen.Int[1, 17], Gen.Int[1, 23], Gen.Int[0, 1000]);

    [Fact]
    public void Packing_and_unpacking_any_shape_gives_the_same_mask() => Shapes.Sample(shape =>
    {
        using var scope = NewDisposeScope();
        using var generator = new Seed(shape.Seed).Generator("mask");
        Tensor keep = rand([shape.Rows, shape.Columns], generator: generator).gt(0.4);
        SparsityMask mask = SparsityMask.FromTensor(keep);
        mask.ToTensor().equal(keep).all().item<bool>().ShouldBeTrue();
        mask.Kept.ShouldBe(keep.sum().item<long>());
        SparsityMask.FromBits(mask.Bits, shape.Rows, shape.Columns).ShouldBe(mask);
    }, iter: 60);

    [Fact]
    public void Revived_counts_only_pruned_weights_that_are_not_zero()
    {
        using var scope = NewDisposeScope();
        SparsityMask mask = SparsityMask.FromTensor(tensor(new[] { true, false, false, true }).reshape(2, 2));
        mask.Revived(tensor(new[] { 1f, 0f, 2f, 0f }).reshape(2, 2)).ShouldBe(1);
    }

    [Fact]
    public void Bits_of_the_wrong_length_or_with_unused_bits_set_are_refused()
    {
        Should.Throw<EspalierException>(() => SparsityMask.FromBits([1, 2], 2, 2)).Message.ShouldContain("takes 1 bytes");
        Should.Throw<EspalierException>(() => SparsityMask.FromBits([0xFF], 2, 2)).Message.ShouldContain("damaged");
    }

    [Fact]
    public void A_mask_is_a_matrix_of_booleans()
    {
        using var scope = NewDisposeScope();
        Should.Throw<EspalierException>(() => SparsityMask.FromTensor(ones(2, 2))).Message.ShouldContain("matrix of booleans");
    }
}
