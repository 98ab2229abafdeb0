using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

namespace Espalier.Tests.Sparsity.Packed;

public sealed class GridTests
{
    [Theory]
    [InlineData(PackedType.Int8)]
    [InlineData(PackedType.Int4)]
    public void What_was_rounded_once_is_packed_bit_by_bit_and_is_what_packing_makes_of_the_source(PackedType type)
    {
        var random = new Random(11);
        foreach (int columns in (int[])[1, 2, 3, 63, 64, 65, 130, 500])
        {
            for (int trial = 0; trial < 12; trial++)
            {
                using var scope = NewDisposeScope();
                const int rows = 4;
                double[] densities = [.. Enumerable.Range(0, rows).Select(_ => random.NextDouble())];
                float size = MathF.Pow(10, random.Next(-12, 6));
                float[] w = [.. PackedProductTests.Weights(random, rows, columns, densities).Select(v => v * size)];
                Tensor rounded = Grid.Round(tensor(w).reshape(rows, columns), type);
                float[] once = Floats(rounded);
                using PackedMatrix source = PackedMatrix.Pack(w, rows, columns, type), again = PackedMatrix.Pack(once, rows, columns, type);
                Floats(source.ToTensor()).ShouldBe(once);
                Bits(again.ToTensor()).ShouldBe(Bits(rounded), $"{columns} columns of size {size}");
                Bits(Grid.Round(rounded, type)).ShouldBe(Bits(rounded));
                w.Zip(once).Count(p => p.First == 0 && p.Second != 0).ShouldBe(0);
            }
        }
    }

    /// <summary>After a sweep or a training the largest code of a group is any, not only the largest possible.</summary>
    [Theory]
    [InlineData(PackedType.Int8)]
    [InlineData(PackedType.Int4)]
    public void Any_codes_times_any_scale_of_the_format_come_back_bit_by_bit(PackedType type)
    {
        var random = new Random(12);
        for (int trial = 0; trial < 2000; trial++)
        {
            int columns = 1 + random.Next(64), largest = 1 + random.Next(type is PackedType.Int8 ? 127 : 7);
            uint bits = (uint)random.Next(0x20000000, 0x5F000000);
            float scale = BitConverter.UInt32BitsToSingle(bits & ~0xFFFFu) * (random.Next(2) * 2 - 1);
            float[] w = [.. Enumerable.Range(0, columns).Select(_ => random.Next(-largest - (type is PackedType.Int4 ? 1 : 0), largest + 1) * scale)];
            using PackedMatrix packed = PackedMatrix.Pack(w, 1, columns, type);
            var back = new float[columns];
            packed.Unpack(0, back);
            back.ShouldBe(w, $"codes up to {largest}, scale {scale}");
        }
    }

    [Theory]
    [InlineData(PackedType.Int8, 127)]
    [InlineData(PackedType.Int4, 7)]
    public void What_hardly_moved_since_it_lay_on_a_grid_goes_back_to_it(PackedType type, int largest)
    {
        using var scope = NewDisposeScope();
        var random = new Random(13);
        Tensor before = Grid.Round(tensor(PackedProductTests.Weights(random, 8, 200, [.. Enumerable.Repeat(0.5, 8)])).reshape(8, 200), type);
        float step = before.abs().max().item<float>() / largest;
        Tensor moved = before + (before.ne(0) * tensor(PackedProductTests.Weights(random, 8, 200, [.. Enumerable.Repeat(1.0, 8)])).reshape(8, 200) * (0.01f * step));
        Tensor back = Grid.Round(moved, type, before);
        back.ne(before).sum().item<long>().ShouldBeLessThan(8);
        (Grid.Round(moved, type) - moved).square().sum().item<float>().ShouldBeGreaterThanOrEqualTo((back - moved).square().sum().item<float>());
    }

    private static float[] Floats(Tensor t) => t.contiguous().data<float>().ToArray();

    private static uint[] Bits(Tensor t) => [.. Floats(t).Select(BitConverter.SingleToUInt32Bits)];
}
