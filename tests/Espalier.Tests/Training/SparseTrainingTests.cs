using Espalier.Data;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Tests.Models;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Training;

public sealed class SparseTrainingTests
{
    private static readonly TrainingOptions Options = new() { Steps = 24, LearningRate = 0.05, Optimizer = "sgd", Momentum = 0.9, WeightDecay = 1e-4, SaveEvery = 5 };

    public static TheoryData<string> Methods => ["granet", "gmp", "rigl", "pgfnm", "srste", "sparsify"];

    [Theory]
    [MemberData(nameof(Methods))]
    public void A_stopped_run_resumes_to_the_same_bytes_and_leaves_no_tensor(string word)
    {
        using ImageTensors images = Stripes(40);
        using VisionModel whole = TinyVision.Make(TinyVision.ResNet), parts = TinyVision.Make(TinyVision.ResNet), fresh = TinyVision.Make(TinyVision.ResNet);
        using var folder = new TemporaryFolder();
        long before = Parameters.LiveTensors;
        TrainingResult result = Train(word, null).Run(whole, images);
        using (var scope = NewDisposeScope())
        {
            foreach ((_, TorchSharp.Modules.Parameter value) in whole.Parameters)
            {
                value.grad = null;
            }
        }

        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
        result.Sparse!.TrainingShare.ShouldBeInRange(0.01, 1);
        result.Sparse.Sparsity.ShouldBeGreaterThan(0.3);
        using var cancellation = new CancellationTokenSource();
        Should.Throw<OperationCanceledException>(() => Train(word, folder.Path, new Stop(13, cancellation)).Run(parts, images, cancellation: cancellation.Token));
        TrainingResult resumed = Train(word, folder.Path, new Stop(-1, cancellation)).Run(fresh, images);
        resumed.Losses.ShouldBe(result.Losses);
        resumed.Sparse!.TrainingShare.ShouldBe(result.Sparse.TrainingShare, 1e-12);
        TinyVision.Bytes(fresh).ShouldBe(TinyVision.Bytes(whole));
        whole.Weights.ShouldAllBe(w => w.WeightChange == null);
        Should.Throw<EspalierException>(() => Train(word == "gmp" ? "granet" : "gmp", folder.Path, new Stop(-1, cancellation)).Run(parts, images)).Message.ShouldContain("another run");
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("gpt2")]
    public void A_language_model_ends_on_the_pattern_along_its_inputs(string family)
    {
        using LanguageModel model = TinyModels.Create(TinyModels.Config(family));
        int[] text = [.. Enumerable.Range(0, 600).Select(i => i * 7 % 37)];
        var options = new TrainingOptions { Steps = 12, LearningRate = 1e-3 };
        TrainingResult result = new LanguageModelTraining(options) { Batch = 2, Length = 12, Sparse = new Pgfnm { N = 1, M = 8 } }.Run(model, text, null, CPU, default);
        using var scope = NewDisposeScope();
        NetWeight[] fed = [.. NetWeight.Of(model).Where(w => w.Name.Contains(".mlp.", StringComparison.Ordinal))];
        fed.Length.ShouldBeGreaterThan(0);
        fed.ShouldAllBe(w => w.Kept().reshape(-1, 8).to(int64).sum(1, false, null).max().item<long>() <= 1);
        result.Sparse!.Masks.Values.Count(m => m.Sparsity == 0).ShouldBe(NetWeight.Of(model).Count - fed.Length);

        new LanguageModelTraining(options) { Batch = 2, Length = 12, Sparse = new Granet { Sparsity = 0.8, UpdateEvery = 2, ExactFinal = true } }.Run(model, text, null, CPU, default)
            .Sparse!.Sparsity.ShouldBeGreaterThanOrEqualTo(0.79);
    }

    [Fact]
    public void A_method_is_named_by_word_or_file_and_bad_words_get_a_sentence()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["sparse.yaml"], "method: granet\nsparsity: 0.8\nvariant: rigl\n");
        PlanWords.Method<ISparseTraining>(folder["sparse.yaml"], ["sparsity=0.7"]).ShouldBe(new Granet { Sparsity = 0.7, Variant = GranetVariant.RigL });
        PlanWords.Systems("sparse-training")!.Select(e => e.Slug).ShouldBe(["ap", "granet", "issp", "ofq", "pgfnm", "wgsef"], ignoreOrder: true);
        Sentence(() => PlanWords.Method<ISparseTraining>("granit", [])).ShouldContain("granet");
        Sentence(() => PlanWords.Method<ISparseTraining>("wanda", [])).ShouldContain("sparse training");
        Sentence(() => PlanWords.Method<ISparseTraining>("granet", ["sparsty=0.9"])).ShouldContain("sparsity");
        File.WriteAllText(folder["none.yaml"], "sparsity: 0.8\n");
        Sentence(() => PlanWords.Method<ISparseTraining>(folder["none.yaml"], [])).ShouldContain("names no method");
    }

    [Fact]
    public void A_masked_net_is_refused()
    {
        using ImageTensors images = Stripes(8);
        using VisionModel model = TinyVision.Make(TinyVision.ResNet);
        using var scope = NewDisposeScope();
        var masks = model.Weights.ToDictionary(w => w.WeightName, w => ones_like(w.Weight, ScalarType.Bool));
        Sentence(() => Train("granet", null).Run(model, images, masks)).ShouldContain("masked already");
    }

    private static string Sentence(Action act) => Should.Throw<EspalierException>(act).Message;

    private static VisionTraining Train(string word, string? state, params ITrainingHook[] hooks) => new(Options)
    {
        Batch = 8,
        Sparse = word switch
        {
            "pgfnm" => new Pgfnm { N = 1, M = 4, Layers = ["layer"] },
            "srste" => new Pgfnm { N = 1, M = 4, Layers = ["layer"], Decay = NmDecay.SrSte },
            "sparsify" => new Pgfnm { N = 1, M = 4, Layers = ["layer"], Decay = NmDecay.Sparsify, FineTune = 0 },
            _ => new Granet { Sparsity = 0.7, UpdateEvery = 3, Variant = Enum.Parse<GranetVariant>(word, ignoreCase: true) },
        },
        StateFolder = state,
        Hooks = hooks,
        Resume = true,
    };

    private static ImageTensors Stripes(int count)
    {
        using var scope = NewDisposeScope();
        using Generator generator = new Seed(7).Generator("stripes");
        return new ImageTensors("stripes", (rand([count, 3, 8, 8], generator: generator) * 200).to(ScalarType.Byte), tensor([.. Enumerable.Range(0, count).Select(i => (long)(i % 3))]));
    }

    private sealed class Stop(int step, CancellationTokenSource cancellation) : ITrainingHook
    {
        public void AfterStep(TrainingStep current)
        {
            if (current.Index == step)
            {
                cancellation.Cancel();
            }
        }
    }
}
