using Espalier.Methods.Retraining;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Retraining;

public sealed class AdapterTests
{
    private static readonly Seed Seed = new(3);

    private static Tensor Random(string purpose, params long[] shape)
    {
        using var generator = Seed.Generator(purpose);
        return randn(shape, generator: generator);
    }

    private static Tensor Pruned24()
    {
        Tensor W = Random("W", 6, 16);
        return MaskSelection.Apply(W, MaskSelection.KeepLargestPerGroup(W.abs(), 2, 4, "w"));
    }

    private static bool SameZeros(Tensor a, Tensor b) => a.ne(0).equal(b.ne(0)).all().item<bool>();

    public static TheoryData<string> Kinds => ["lora", "lora_prune", "mask_lora", "scale_lora"];

    private static LowRankAdapter Start(string kind, Tensor W) => kind switch
    {
        "lora" => new LoraAdapter(W, 4, 8, Seed, "w"),
        "lora_prune" => new LoraPruneAdapter(W, 4, 8, Seed, "w"),
        "mask_lora" => new MaskLoraAdapter(W, 4, 8, Seed, "w"),
        _ => new ScaleLoraAdapter(W, 4, "w"),
    };

    private static LowRankAdapter Trained(string kind, Tensor W)
    {
        Tensor A = Random("A", 4, 16), B = Random("B", 6, 4);
        return kind switch
        {
            "lora" => new LoraAdapter(W, A, B, 8),
            "lora_prune" => new LoraPruneAdapter(W, A, B, 8),
            "mask_lora" => new MaskLoraAdapter(W, A, B, 8),
            _ => new ScaleLoraAdapter(W, A, B),
        };
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Every_adapter_starts_as_the_pruned_map(string kind)
    {
        using var scope = NewDisposeScope();
        Tensor W = Pruned24(), x = Random("x", 2, 3, 16), bias = Random("b", 6);
        using LowRankAdapter adapter = Start(kind, W);
        (adapter.Forward(x, W, bias) - nn.functional.linear(x, W, bias)).abs().max().item<float>().ShouldBeLessThan(1e-5f);
        if (kind != "scale_lora")
        {
            adapter.A.abs().max().item<float>().ShouldBeInRange(0.2f, 0.25f); // ±1/√16
        }
    }

    [Theory]
    [InlineData("mask_lora")]
    [InlineData("scale_lora")]
    public void What_was_trained_is_what_is_merged_and_zeros_stay(string kind)
    {
        using var scope = NewDisposeScope();
        Tensor W = Pruned24(), before = W.clone(), x = Random("x", 2, 3, 16);
        using LowRankAdapter adapter = Trained(kind, W);
        Tensor merged = adapter.Merge(W);
        (adapter.Forward(x, W, null) - nn.functional.linear(x, merged)).abs().max().item<float>().ShouldBeLessThan(1e-5f);
        SameZeros(merged, W).ShouldBeTrue();
        MaskSelection.IsSemiStructured(merged.ne(0), 2, 4).ShouldBeTrue();
        W.equal(before).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void LoraPrune_jumps_at_the_merge_unless_it_is_told_to_look_ahead()
    {
        using var scope = NewDisposeScope();
        Tensor W = Pruned24(), x = Random("x", 2, 3, 16);
        using var adapter = (LoraPruneAdapter)Trained("lora_prune", W);
        Tensor merged = nn.functional.linear(x, adapter.Merge(W));
        SameZeros(adapter.Merge(W), W).ShouldBeTrue();
        (adapter.Forward(x, W, null) - merged).abs().max().item<float>().ShouldBeGreaterThan(0.1f);
        adapter.AsMerged = true;
        (adapter.Forward(x, W, null) - merged).abs().max().item<float>().ShouldBeLessThan(1e-5f);
    }

    [Fact]
    public void With_a_full_mask_MaskLora_is_Lora()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("dense", 6, 16), x = Random("x", 2, 3, 16);
        using LowRankAdapter mask = Trained("mask_lora", W), plain = Trained("lora", W);
        (mask.Forward(x, W, null) - plain.Forward(x, W, null)).abs().max().item<float>().ShouldBeLessThan(1e-4f);
        (mask.Merge(W) - plain.Merge(W)).abs().max().item<float>().ShouldBeLessThan(1e-5f);
    }

    [Fact]
    public void Plain_Lora_is_not_folded_into_a_sparse_weight_but_into_a_dense_one_with_chance_zeros()
    {
        using var scope = NewDisposeScope();
        Tensor W = Pruned24();
        using LowRankAdapter adapter = Trained("lora", W);
        Should.Throw<EspalierException>(() => adapter.Merge(W)).Message.ShouldContain("mask_lora");
        using LoraAdapter head = LoraAdapter.OfDense(W, 2, 4, Seed, "head");
        head.Merge(W).shape.ShouldBe(W.shape);
    }

    [Fact]
    public void A_given_mask_lets_a_kept_weight_learn_that_is_zero_by_chance()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", 6, 16), keep = ones([6, 16], ScalarType.Bool);
        using (no_grad())
        {
            W[0, 0] = 0;
            W[1, 1] = 0;
            keep[1, 1] = false;
        }

        using var adapter = new MaskLoraAdapter(W, Random("A", 4, 16), Random("B", 6, 4), 8, keep);
        Tensor merged = adapter.Merge(W);
        merged[0, 0].item<float>().ShouldNotBe(0);
        merged[1, 1].item<float>().ShouldBe(0);
    }

    [Fact]
    public void ScaleLora_counts_kept_weights_that_its_scale_wipes_out_and_ignores_alpha()
    {
        using var scope = NewDisposeScope();
        Tensor W = Pruned24(), B = Random("B", 6, 4);
        B[2].zero_(); // row 2 is scaled by 0
        using var adapter = new ScaleLoraAdapter(W, Random("A", 4, 16), B);
        adapter.Vanished(W).ShouldBe(8);
        adapter.Merge(W).ne(0).logical_and(W.eq(0)).any().item<bool>().ShouldBeFalse();
        (adapter.Merge(W) - (W * B.mm(adapter.A))).abs().max().item<float>().ShouldBeLessThan(1e-6f);
    }

    [Fact]
    public void Half_precision_weights_are_merged_in_float32_and_rounded_once()
    {
        using var scope = NewDisposeScope();
        Tensor W = Pruned24().to(ScalarType.BFloat16);
        using LowRankAdapter adapter = Trained("mask_lora", W);
        Tensor merged = adapter.Merge(W);
        merged.dtype.ShouldBe(ScalarType.BFloat16);
        merged.equal(adapter.Merge(W.to(ScalarType.Float32)).to(ScalarType.BFloat16)).all().item<bool>().ShouldBeTrue();
    }

    [Theory]
    [InlineData(0)]
    [InlineData(7)]
    public void A_rank_that_does_not_fit_is_refused_by_name(int rank)
    {
        using var scope = NewDisposeScope();
        Tensor W = Pruned24();
        Should.Throw<EspalierException>(() => new MaskLoraAdapter(W, rank, 8, Seed, "q_proj")).Message.ShouldContain("q_proj");
        Should.Throw<EspalierException>(() => new ScaleLoraAdapter(W, rank, "q_proj"));
        Should.Throw<EspalierException>(() => new MaskLoraAdapter(W, Random("A", 4, 15), Random("B", 6, 4), 8));
        Should.Throw<EspalierException>(() => new MaskLoraAdapter(W, 2, -1, Seed, "q_proj"));
    }
}
