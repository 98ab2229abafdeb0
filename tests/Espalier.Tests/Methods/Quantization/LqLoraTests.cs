using Espalier.Catalogue;
using Espalier.Methods.Quantization;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity.NormalFloats;
using Espalier.Tests.Models;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Quantization;

public sealed class LqLoraTests
{
    private static readonly TrainingOptions Few = new() { Steps = 3, LearningRate = 1e-2 };
    private static readonly LqLora Small = new() { Rank = 4, Alpha = 8, Block = 16, SuperBlock = 8, Bits = 3 };

    [Fact]
    public void The_best_turn_is_kept_and_alternating_beats_quantising_first_beats_quantising()
    {
        using var scope = NewDisposeScope();
        var format = new NfFormat { Bits = 2, Block = 16, SuperBlock = 8 };
        using Generator generator = new Seed(1).Generator("weights");
        for (int trial = 0; trial < 5; trial++)
        {
            Tensor a = randn(24, 32, generator: generator), fisher = rand(24, 32, generator: generator).square();
            foreach (Tensor? f in new[] { null, fisher })
            {
                using Decomposition by = LowRankPlusQuantised.Decompose(a, f, 4, format), one = LowRankPlusQuantised.Decompose(a, f, 4, format, 1), first = LowRankPlusQuantised.QuantiseFirst(a, f, 4, format), plain = LowRankPlusQuantised.QuantiseFirst(a, f, 0, format);
                by.Error.ShouldBeLessThanOrEqualTo(one.Error);
                by.Error.ShouldBeLessThan(first.Error);
                first.Error.ShouldBeLessThan(plain.Error);
                LowRankPlusQuantised.Error(a - by.Product() - by.Q.Dequantise(), f?.to(ScalarType.Float64).sqrt()).ShouldBe(by.Error, 1e-4);
            }
        }
    }

    [Fact]
    public void Fisher_weights_with_empty_rows_do_not_divide_by_zero_and_empty_ones_are_refused()
    {
        using var scope = NewDisposeScope();
        Tensor a = randn(6, 9), fisher = rand(6, 9);
        fisher[2] = 0;
        LowRankPlusQuantised.WeightedSvd(a, fisher, 2, FisherSides.TwoSided).L1.isfinite().all().item<bool>().ShouldBeTrue();
        Should.Throw<EspalierException>(() => LowRankPlusQuantised.WeightedSvd(a, zeros(6, 9), 2, FisherSides.TwoSided)).Message.ShouldContain("zero everywhere");
        Should.Throw<EspalierException>(() => LowRankPlusQuantised.WeightedSvd(a, null, 7, FisherSides.None)).Message.ShouldContain("rank of 7");
    }

    [Theory]
    [InlineData("llama", LowRankStart.Alternating, 0)]
    [InlineData("gpt2", LowRankStart.QuantiseFirst, 3)]
    [InlineData("llama", LowRankStart.Zero, 0)]
    public void An_adapted_model_is_saved_opened_merged_and_written_quantised(string family, LowRankStart start, int samples)
    {
        using TemporaryFolder adapter = new(), quantised = new();
        using LanguageModel model = TinyModels.Create(family);
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 12), before = Logits(model, ids);
        using AdaptationResult result = Adapt(Small with { Start = start, FisherSamples = samples }, model);
        result.TrainedParameters.ShouldBe(NetWeight.Of(model).Sum(w => 4 * (w.Rows + w.Columns)));
        Tensor beside = Logits(model, ids);
        result.Adapter.Save(adapter.Path);
        NfReport report = ((ICompactAdaptationRun)result.Adapter).WriteModel(quantised.Path);
        using (NfSource source = NfSource.Open(quantised.Path))
        using (LanguageModel read = LanguageModel.Load(ModelConfig.Load(quantised.Path), source, compact: true))
        {
            Largest(Logits(read, ids), beside).ShouldBeLessThan(0.1); // low-rank parts are written in bfloat16
            report.BitsPerWeight.ShouldBe(3 + (8.0 / 16) + (16.0 / 128), 0.2);
        }

        AdapterMerge.Fold(result.Adapter, () => Logits(model, ids)).Largest.ShouldBeLessThan(1e-3);
        result.Adapter.Unmerge();
        result.Dispose();
        Largest(Logits(model, ids), before).ShouldBe(0);
        using IAdaptationRun opened = AdapterFile.MethodOf(adapter.Path).Begin(AdaptationContext.Of(model) with { Saved = adapter.Path });
        Largest(Logits(model, ids), beside).ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void A_budget_is_kept_and_spent_where_it_matters()
    {
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        var method = Small with { Budget = 3.5, GridBlocks = [16], GridSuperBlocks = [8], GridBits = [2, 3, 4] };
        using IAdaptationRun run = method.Begin(AdaptationContext.Of(model));
        var adapters = ((WeightAdaptationRun)run).Adapters.Cast<LqLoraAdapter>().ToArray();
        double bits = adapters.Sum(a => a.Quantised.StorageBits) / NetWeight.Of(model).Sum(w => w.Rows * w.Columns);
        bits.ShouldBeInRange(3.0, 3.5);
        adapters.Select(a => a.Quantised.Format.Bits).Distinct().Count().ShouldBeGreaterThan(1);
        Should.Throw<EspalierException>(() => (method with { Budget = 2 }).Begin(AdaptationContext.Of(model))).Message.ShouldContain("below the smallest");
    }

    [Fact]
    public void The_Fisher_matrix_is_a_sum_over_single_samples()
    {
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        NetWeight[] weights = [.. NetWeight.Of(model)];
        var objective = new LanguageModelObjective(model, (sample, _) => TinyModels.Ids(model.Config, 1, 8 + (int)sample));
        AdaptationContext context = AdaptationContext.Of(model) with { Objective = objective, Samples = objective };
        IReadOnlyDictionary<string, Tensor> both = LqLora.Fisher(context, weights, 2), first = LqLora.Fisher(context, weights, 1);
        (both[weights[0].Name] - first[weights[0].Name]).min().item<float>().ShouldBeGreaterThanOrEqualTo(0);
        both[weights[0].Name].sum().item<float>().ShouldBeGreaterThan(first[weights[0].Name].sum().item<float>());
        first.Values.ShouldAllBe(f => f.min().item<float>() >= 0);
    }

    [Theory]
    [InlineData("rank", 0, "rank of 0")]
    [InlineData("bits", 1, "2 to 8")]
    [InlineData("budget", -1.0, "budget of -1")]
    [InlineData("super_type", "int8", "fp32, fp16 or bf16")]
    public void Impossible_options_are_refused(string option, object value, string words) =>
        Should.Throw<EspalierException>(() => MethodCatalogue.Default.Create<IAdaptation>("lqlora", new Dictionary<string, object?> { [option] = value })).Message.ShouldContain(words);

    [Fact]
    public void A_rank_above_a_matrix_is_refused_before_work()
    {
        using LanguageModel model = TinyModels.Create("llama");
        Should.Throw<EspalierException>(() => new LqLora().Check(NetWeight.Of(model), Few)).Message.ShouldContain("rank of 64");
    }

    private static AdaptationResult Adapt(IAdaptation method, LanguageModel model) =>
        new AdaptationTraining(Few) { Batch = 2, Length = 8 }.Run(method, model, [.. Enumerable.Range(0, 400).Select(i => i * 7 % model.Config.VocabSize)]);

    private static Tensor Logits(LanguageModel model, Tensor ids)
    {
        using var _ = no_grad();
        return model.Logits(ids);
    }

    private static double Largest(Tensor a, Tensor b) => (a - b).abs().max().item<float>();
}
