using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity.NormalFloats;
using Espalier.Tests.Models;
using static TorchSharp.torch;

namespace Espalier.Tests.Sparsity.NormalFloats;

public sealed class NormalFloatTests
{
    [Theory]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(8)]
    public void Levels_rise_from_minus_one_to_one_with_zero_among_them(int bits)
    {
        NormalFloat scheme = NormalFloat.Of(bits);
        float[] levels = [.. scheme.Levels];
        levels.Length.ShouldBe(1 << bits);
        (levels[0], levels[^1], levels[scheme.Zero]).ShouldBe((-1f, 1f, 0f));
        levels.Zip(levels.Skip(1)).ShouldAllBe(p => p.First < p.Second);
        using var scope = NewDisposeScope();
        scheme.Encode(tensor(levels)).data<byte>().ToArray().ShouldBe([.. Enumerable.Range(0, 1 << bits).Select(i => (byte)i)]);
        scheme.Encode(tensor(scheme.Boundaries.ToArray())).data<byte>().ToArray().ShouldBe([.. Enumerable.Range(0, (1 << bits) - 1).Select(i => (byte)i)]); // the lower code
    }

    [Fact]
    public void Codes_of_any_width_and_odd_lengths_come_back()
    {
        Random random = new Seed(1).Random("codes");
        for (int bits = 1; bits <= 8; bits++)
        {
            foreach (int count in new[] { 0, 1, 7, 8, 33, 1000 })
            {
                byte[] codes = [.. Enumerable.Range(0, count).Select(_ => (byte)random.Next(1 << bits))], back = new byte[count], some = new byte[Math.Max(0, count - 3)];
                byte[] stream = BitStream.Pack(codes, bits);
                stream.Length.ShouldBe((((count * bits) + 7) / 8) + BitStream.Padding);
                BitStream.Unpack(stream, bits, 0, back);
                back.ShouldBe(codes);
                BitStream.Unpack(stream, bits, Math.Min(3, count), some);
                some.ShouldBe([.. codes.Skip(3)]);
            }
        }
    }

    [Theory]
    [InlineData(2, 4, ScalarType.Float16, 8, 3, 24, 20)]
    [InlineData(3, 8, ScalarType.BFloat16, 16, 64, 33, 17)]
    [InlineData(4, 8, ScalarType.Float32, 64, 256, 40, 96)]
    [InlineData(8, 5, ScalarType.BFloat16, 7, 5, 9, 13)]
    public void A_packed_matrix_is_its_dequantised_one_to_the_bit(int bits, int scaleBits, ScalarType super, int block, int superBlock, int rows, int columns)
    {
        using var scope = NewDisposeScope();
        var format = new NfFormat { Bits = bits, ScaleBits = scaleBits, SuperType = super, Block = block, SuperBlock = superBlock };
        Tensor a = randn(rows, columns);
        a[3] = 0;
        NfTensor quantised = format.Quantise(a);
        Tensor dense = quantised.Dequantise();
        using NfMatrix packed = NfMatrix.Of(quantised);
        packed.ToDense().eq(dense).all().item<bool>().ShouldBeTrue();
        packed.Rows(tensor(new long[] { 5, 0 })).eq(dense.index_select(0, tensor(new long[] { 5, 0 }))).all().item<bool>().ShouldBeTrue();
        Tensor x = randn(3, 2, columns);
        (packed.Multiply(x) - x.matmul(dense.t())).abs().max().item<float>().ShouldBeLessThan(1e-4f);
        float[] one = x[0, 0].data<float>().ToArray(), y = new float[rows], some = new float[rows];
        packed.Multiply(one, y);
        packed.Multiply(one, some, [1, 4]);
        (tensor(y) - dense.mv(tensor(one))).abs().max().item<float>().ShouldBeLessThan(1e-4f);
        (some[1], some[4], some[0]).ShouldBe((y[1], y[4], 0f));
        packed.StoredBytes.ShouldBeInRange((long)(packed.StorageBits / 8), (long)(packed.StorageBits / 8) + 8);
        NfFormat.Parse(format.ToString()).ShouldBe(format);
    }

    [Fact]
    public void A_zero_block_stays_zero_and_short_blocks_do_not_lower_the_offset()
    {
        using var scope = NewDisposeScope();
        var format = new NfFormat { Bits = 3, Block = 8, SuperBlock = 4 };
        Tensor a = randn(2, 16);
        a.narrow(1, 0, 8).zero_();
        format.Quantise(a).Dequantise().narrow(1, 0, 8).count_nonzero().item<long>().ShouldBe(0);
        Tensor odd = randn(35) + 3;
        NfTensor quantised = format.Quantise(odd);
        quantised.Offset.item<float>().ShouldBe(Enumerable.Range(0, 5).Min(i => odd.narrow(0, i * 8, Math.Min(8, 35 - (i * 8))).abs().max().item<float>()));
        format.StorageBits(35).ShouldBe((35 * 3) + (5 * 8) + (2 * 16));
        new NfFormat { Bits = 4, SuperType = ScalarType.Float32 }.StorageBits(64 * 256).ShouldBe(64 * 256 * (4 + (8.0 / 64) + (32.0 / (64 * 256))));
        format.Quantise(zeros(4, 8)).Dequantise().count_nonzero().item<long>().ShouldBe(0);
    }

    [Fact]
    public void Impossible_formats_and_values_are_refused()
    {
        using var scope = NewDisposeScope();
        Should.Throw<EspalierException>(() => new NfFormat { Bits = 9 }).Message.ShouldContain("2 to 8");
        Should.Throw<EspalierException>(() => NfFormat.Parse("nf4 bf16")).Message.ShouldContain("no NormalFloat format");
        Should.Throw<EspalierException>(() => new NfFormat().Quantise(tensor(new[] { 1f, float.NaN }))).Message.ShouldContain("infinite or NaN");
        Should.Throw<EspalierException>(() => new NfFormat { SuperType = ScalarType.Float16, Block = 1 }.Quantise(tensor(new[] { 0f, 1e6f }))).Message.ShouldContain("too large for float16");
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("gpt2")]
    public void A_written_model_is_opened_runs_quantised_and_answers_the_same(string family)
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create(family);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        var format = new NfFormat { Bits = 3, Block = 16, SuperBlock = 8 };
        var parts = new Dictionary<string, NfPart>();
        foreach ((string name, Linear linear, _) in model.Blocks.SelectMany(b => b.Linears))
        {
            Tensor left = randn(linear.OutFeatures, 2).to(ScalarType.BFloat16).to(ScalarType.Float32), right = randn(2, linear.InFeatures).to(ScalarType.BFloat16).to(ScalarType.Float32);
            NfTensor q = format.Quantise(linear.Matrix);
            parts[name] = new NfPart(NfMatrix.Of(q), left, right);
            linear.SetMatrix(q.Dequantise() + left.mm(right));
        }

        NfReport report = NfWriter.Write(model, parts, folder.Path);
        report.LargestDifference.ShouldBeLessThan(1e-3);
        report.BitsPerWeight.ShouldBe(parts.Values.Sum(p => p.Quantised.StorageBits) / parts.Values.Sum(p => (double)p.Quantised.OutFeatures * p.Quantised.InFeatures));
        using NfSource source = NfSource.Open(folder.Path);
        using LanguageModel read = LanguageModel.Load(ModelConfig.Load(folder.Path), source, compact: true);
        read.Blocks.SelectMany(b => b.Linears).ShouldAllBe(l => l.Linear.Compact != null);
        Tensor ids = TinyModels.Ids(model.Config, 2, 9);
        (read.Logits(ids) - model.Logits(ids)).abs().max().item<float>().ShouldBeLessThan(1e-3f);
        read.WeightBytes.ShouldBeLessThan(model.WeightBytes);
        using var any = (NfSource)Espalier.Sparsity.Packed.PackedSource.OpenAny(folder.Path);
        any.Names.Order(StringComparer.Ordinal).ShouldBe(model.Tensors.Select(t => t.Name).Order(StringComparer.Ordinal));
    }
}
