using System.Globalization;
using System.Text.Json;
using Espalier.Checkpoints;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Tests.Models;
using static TorchSharp.torch;

namespace Espalier.Tests.Evaluation;

public sealed class PerplexityTests
{
    [Theory]
    [InlineData("ppl_a")]
    [InlineData("ppl_exact")]
    public void Perplexity_is_that_of_wandas_code(string name)
    {
        using var scope = NewDisposeScope();
        using var file = SafeTensorsFile.Open(TestPaths.RequireShared($"parity/wanda/{name}.safetensors"));
        long length = JsonDocument.Parse(file.Metadata["params"]).RootElement.GetProperty("seqlen").GetInt64();
        PerplexityResult result = Perplexity.FromLogits(file.Read("in.logits"), file.Read("in.tokens"), length);
        float expected = file.Read("out.ppl").item<float>();
        result.Value.ShouldBe(expected, 1e-5 + expected * double.Parse(file.Metadata["rtol"], CultureInfo.InvariantCulture));
        ((long)result.Segments).ShouldBe(file.Read("out.segments").item<long>());
    }

    [Fact]
    public void Uniform_logits_have_the_vocabulary_as_perplexity()
    {
        using var scope = NewDisposeScope();
        Tensor windows = arange(60).remainder(37).reshape(6, 10);
        PerplexityResult result = Perplexity.Evaluate(ids => zeros(ids.shape[0], ids.shape[1], 37), windows);
        result.Value.ShouldBe(37, 1e-4);
        (result.Segments, result.Tokens).ShouldBe((6, 54L));
        result.StandardErrorOfLog.ShouldBe(0, 1e-9);
    }

    [Fact]
    public void Batching_and_slicing_positions_change_nothing()
    {
        using var scope = NewDisposeScope();
        using var generator = new Seed(4).Generator("table");
        Tensor table = randn(50, 50, generator: generator);
        Tensor windows = randint(0, 50, [7, 300], dtype: int64, generator: generator);
        double whole = Perplexity.Evaluate(ids => table[ids], windows, batch: 7).Value;
        Perplexity.Evaluate(ids => table[ids], windows, batch: 2).Value.ShouldBe(whole, whole * 1e-6);
        var meter = new PerplexityMeter();
        meter.Add(table[windows], windows, states => states * 1);
        meter.Result.Value.ShouldBe(whole, whole * 1e-6);
        Perplexity.FromLogits(table[windows], windows.flatten(), 300).Value.ShouldBe(whole, whole * 1e-6);
    }

    [Fact]
    public void A_model_is_scored_from_hidden_states_as_from_logits()
    {
        using var scope = NewDisposeScope();
        using LanguageModel model = TinyModels.Create("llama");
        Tensor windows = TinyModels.Ids(model.Config, 5, 32);
        double expected = Perplexity.Evaluate(ids => model.Logits(ids), windows).Value;
        PerplexityResult result = Perplexity.Evaluate(model, windows, batch: 2);
        result.Value.ShouldBe(expected, expected * 1e-5);
        result.StandardErrorOfLog.ShouldBeGreaterThan(0);
    }

    [Fact]
    public void The_last_position_of_a_window_and_the_remainder_are_not_scored()
    {
        using var scope = NewDisposeScope();
        Tensor logits = zeros(2, 3, 5);
        logits[TensorIndex.Colon, 2] = float.NaN;
        PerplexityResult result = Perplexity.FromLogits(logits, zeros(8, int64), 3);
        result.Value.ShouldBe(5, 1e-5);
        result.Tokens.ShouldBe(4);
    }

    [Fact]
    public void What_cannot_be_scored_is_said()
    {
        using var scope = NewDisposeScope();
        Message(() => Perplexity.Windows(zeros(9, int64), 10)).ShouldContain("9 tokens, fewer than one window of 10");
        Message(() => Perplexity.Windows(zeros(9, int64), 1)).ShouldContain("at least 2");
        Message(() => Perplexity.FromLogits(full([1, 3, 5], float.NaN), zeros(3, int64), 3)).ShouldContain("logits for window 0 are not finite");
        Message(() => Perplexity.FromLogits(zeros(1, 3, 5), full(3, 5, int64), 3)).ShouldContain("outside the vocabulary of 5");
        Message(() => Perplexity.FromLogits(zeros(1, 4, 5), zeros(3, int64), 3)).ShouldContain("[1, 4, 5]");
        Message(() => Perplexity.Evaluate(ids => zeros(1, 1, 1), zeros(0, 3, int64))).ShouldContain("[0, 3]");
        Message(() => Perplexity.Evaluate(ids => zeros(1, 1, 1), zeros(2, 3, int64))).ShouldContain("do not belong");
        Message(() => _ = new PerplexityMeter().Result).ShouldContain("no window was scored");
        using var cancelled = new CancellationTokenSource();
        cancelled.Cancel();
        Should.Throw<OperationCanceledException>(() => Perplexity.Evaluate(ids => ids, zeros(2, 3, int64), cancellation: cancelled.Token));

        static string Message(Action act) => Should.Throw<EspalierException>(act).Message;
    }
}
