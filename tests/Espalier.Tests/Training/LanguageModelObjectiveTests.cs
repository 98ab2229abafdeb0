using Espalier.Models;
using Espalier.Runtime;
using Espalier.Tests.Models;
using Espalier.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Espalier.Tests.Training;

public sealed class LanguageModelObjectiveTests
{
    [Fact]
    public void Loss_is_the_mean_cross_entropy_of_next_tokens_without_padding()
    {
        using var scope = NewDisposeScope();
        using var generator = new Seed(2).Generator("logits");
        Tensor logits = randn(2, 4, 7, generator: generator);
        Tensor ids = tensor(new long[,] { { 1, 2, 3, 4 }, { 5, 6, 0, 0 } });
        var objective = new LanguageModelObjective(_ => logits, (_, _) => ids, padding: 0);

        double[] expected = [.. new[] { (0, 0, 2), (0, 1, 3), (0, 2, 4), (1, 0, 6) }
            .Select(p => -nn.functional.log_softmax(logits, 2)[p.Item1, p.Item2, p.Item3].item<float>())];
        objective.Loss(0, 0).item<float>().ShouldBe((float)expected.Average(), 1e-5f);
        objective.Tokens.ShouldBe(8);
    }

    [Fact]
    public void Labels_choose_what_is_learned()
    {
        using var scope = NewDisposeScope();
        Tensor logits = arange(12, dtype: float32).reshape(1, 3, 4);
        Tensor ids = tensor(new long[,] { { 1, 2, 3 } }), labels = tensor(new long[,] { { -100, -100, 3 } });
        var objective = new LanguageModelObjective(_ => logits, (_, _) => (ids, labels));
        objective.Loss(0, 0).item<float>().ShouldBe(-nn.functional.log_softmax(logits, 2)[0, 1, 3].item<float>(), 1e-6f);
    }

    [Fact]
    public void A_language_model_learns_a_sequence_and_leaks_nothing()
    {
        using LanguageModel model = LanguageModel.Random(TinyModels.Config("llama"), new Seed(1));
        using Tensor ids = TinyModels.Ids(model.Config, 2, 16);
        foreach ((_, var value) in model.Tensors)
        {
            value.requires_grad_();
        }

        var objective = new LanguageModelObjective(model, (_, _) => ids);
        long early = 0, late = 0;
        var hook = new TestHook { OnBeforeStep = step => (early, late) = (step.Index == 2 ? Live() : early, Live()) };
        using var loop = new TrainingLoop(new TrainingOptions { Steps = 40, LearningRate = 0.01, WarmupSteps = 2 }, [.. model.Tensors], objective) { Hooks = [hook] };
        TrainingResult result = loop.Run();
        result.Losses[0].ShouldBe(Math.Log(37), 0.3);
        result.FinalLoss.ShouldBeLessThan(1);
        late.ShouldBe(early);

        static long Live() => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
    }

    [Fact]
    public void Batches_that_teach_nothing_are_refused()
    {
        using var scope = NewDisposeScope();
        Func<Tensor, Tensor> logits = ids => zeros(ids.shape[0], ids.shape[1], 4);
        Loss(new(logits, (_, _) => zeros(2, 1, int64))).ShouldContain("at least two tokens");
        Loss(new(logits, (_, _) => zeros(2, 5, int64), padding: 0)).ShouldContain("no token to learn");
        Loss(new(logits, (_, _) => (zeros(2, 5, int64), zeros(2, 4, int64)))).ShouldContain("labels of step 3");

        static string Loss(LanguageModelObjective objective) => Should.Throw<EspalierException>(() => objective.Loss(3, 0)).Message;
    }
}
