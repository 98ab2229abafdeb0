using Espalier.Data;
using Espalier.Evaluation.Tasks;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Espalier.Tests.Evaluation.Tasks;

public sealed class ModelLikelihoodTests
{
    private static readonly string[] words = ["Question: where does the cat sit? Answer: on the mat, in the hat."];

    private static readonly LikelihoodRequest[] requests =
    [
        new("Question: cat?\nAnswer:", " yes"), new("Question: cat?\nAnswer:", " no"), new("Q", " a rather longer end of it"),
        new("", "no context"), new("The dog sat. ", "on the mat"), new("The dog sat.", " on the mat"), new("Question: cat?\nAnswer:", " y"), new("Q", " é😀"),
    ];

    public static TheoryData<string> Families => TinyModels.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public void Scores_are_those_of_each_sequence_alone(string family)
    {
        using var folder = new TemporaryFolder();
        Tokenizer tokenizer = Bytes(folder);
        ModelConfig config = Config(family, 48);
        using LanguageModel model = TinyModels.Create(config);
        using MemoryTensors tensors = TinyModels.Tensors(config);
        using var streamed = new StreamedModel(config, tensors);
        double[] expected = [.. requests.Select(r => Alone(model, tokenizer, r))];
        foreach (ModelLikelihood likelihood in new[] { ModelLikelihood.Of(model, tokenizer), ModelLikelihood.Of(streamed, tokenizer), ModelLikelihood.Of(streamed, tokenizer, hiddenBytes: 1) })
        {
            IReadOnlyList<LikelihoodScore> scores = likelihood.Score(requests, "scoring", SilentProgress.Instance, TestContext.Current.CancellationToken);
            for (int i = 0; i < requests.Length; i++)
            {
                scores[i].LogLikelihood.ShouldBe(expected[i], 1e-4);
            }

            scores[4].ShouldBe(scores[5]); // white space at the end of the context belongs to the continuation
            scores.Select(s => s.Tokens).Take(4).ShouldBe([4, 3, 26, 10]);
        }
    }

    [Fact]
    public void Many_sequences_in_several_batches_and_turns_score_the_same()
    {
        using var folder = new TemporaryFolder();
        Tokenizer tokenizer = Bytes(folder);
        ModelConfig config = Config("llama", 160);
        using LanguageModel model = TinyModels.Create(config);
        using MemoryTensors tensors = TinyModels.Tensors(config);
        using var streamed = new StreamedModel(config, tensors);
        LikelihoodRequest[] many = [.. Enumerable.Range(0, 60).Select(i => new LikelihoodRequest(new string('a', 1 + (i * 37 % 120)), " b" + new string('c', i % 5)))];
        var progress = new CountingProgress();
        IReadOnlyList<LikelihoodScore> scores = ModelLikelihood.Of(streamed, tokenizer, hiddenBytes: 400_000).Score(many, "scoring", progress, TestContext.Current.CancellationToken);
        foreach (int i in new[] { 0, 7, 31, 59 })
        {
            scores[i].LogLikelihood.ShouldBe(Alone(model, tokenizer, many[i]), 1e-4);
        }

        progress.Advanced.ShouldBe(progress.Total);
        progress.Total.ShouldBeGreaterThan(4); // two blocks, more than two batches
    }

    [Fact]
    public void A_context_that_is_too_long_is_cut_on_the_left_with_a_warning()
    {
        using var folder = new TemporaryFolder();
        Tokenizer tokenizer = Bytes(folder);
        EncodedPair pair = PairEncoder.Encode(tokenizer, new LikelihoodRequest("abcdefgh", " xyz"), 6);
        // 12 tokens; the model reads 6 of the first 11 and predicts the last 4.
        pair.Cut.ShouldBe(5);
        tokenizer.Decode(pair.Input).ShouldBe("fgh xy");
        tokenizer.Decode(pair.Targets).ShouldBe(" xyz");
        PairEncoder.Encode(tokenizer, new LikelihoodRequest("abcdefgh", " xyz"), 11).Cut.ShouldBe(0);
        Should.Throw<EspalierException>(() => PairEncoder.Encode(tokenizer, new LikelihoodRequest("abc", " wxyz"), 4)).Message.ShouldContain("has 5 tokens, more than the 4");

        using LanguageModel model = TinyModels.Create(Config("llama", 12));
        LikelihoodRequest longer = new("abcdefghijklmnop", " yes");
        var progress = new CountingProgress();
        ModelLikelihood.Of(model, tokenizer).Score([longer], "scoring", progress, TestContext.Current.CancellationToken)[0].LogLikelihood.ShouldBe(Alone(model, tokenizer, longer), 1e-4);
        progress.Warnings.Single().ShouldContain("1 of 1 requests are longer");
    }

    [Fact]
    public void An_empty_context_is_the_beginning_token()
    {
        using var folder = new TemporaryFolder();
        Tokenizer tokenizer = Bytes(folder);
        EncodedPair pair = PairEncoder.Encode(tokenizer, new LikelihoodRequest(" ", "ab"), 32);
        pair.Input[0].ShouldBe(tokenizer.BeginId ?? tokenizer.EndId!.Value);
        tokenizer.Decode(pair.Targets).ShouldBe(" ab");
        EncodedPair marked = PairEncoder.Encode(tokenizer, new LikelihoodRequest("", "<s>ab"), 32);
        tokenizer.Decode(marked.Targets).ShouldBe("ab"); // a text that brings the token itself gets no second one
        Should.Throw<EspalierException>(() => PairEncoder.Encode(tokenizer, new LikelihoodRequest("abc", ""), 32)).Message.ShouldContain("no token of its own");
    }

    [Fact]
    public void A_tokeniser_of_another_model_and_a_damaged_model_are_sentences()
    {
        using var folder = new TemporaryFolder();
        Tokenizer tokenizer = Bytes(folder);
        using LanguageModel small = TinyModels.Create("llama");
        string Said(LanguageModel model) => Should.Throw<EspalierException>(() => ModelLikelihood.Of(model, tokenizer).Score(requests[..1], "scoring", SilentProgress.Instance, default)).Message;
        Said(small).ShouldContain("outside the model's vocabulary of 37");
        using LanguageModel damaged = TinyModels.Create(Config("llama", 48));
        using (no_grad())
        {
            damaged.Embedding.Tokens.weight.fill_(float.NaN);
        }

        Said(damaged).ShouldContain("not finite");
        using MemoryTensors tensors = TinyModels.Tensors(small.Config);
        using var streamed = new StreamedModel(small.Config, tensors);
        Should.Throw<EspalierException>(() => ModelLikelihood.Of(streamed, tokenizer, hiddenBytes: 0)).Message.ShouldContain("0 bytes");
    }

    [Fact]
    public void Nothing_stays_in_native_memory_and_the_work_can_be_stopped()
    {
        using var folder = new TemporaryFolder();
        Tokenizer tokenizer = Bytes(folder);
        ModelConfig config = Config("llama", 48);
        using MemoryTensors tensors = TinyModels.Tensors(config);
        using LanguageModel model = TinyModels.Create(config);
        using var streamed = new StreamedModel(config, tensors);
        ModelLikelihood[] both = [ModelLikelihood.Of(model, tokenizer), ModelLikelihood.Of(streamed, tokenizer)];
        foreach (ModelLikelihood likelihood in both)
        {
            likelihood.Score(requests, "scoring", SilentProgress.Instance, TestContext.Current.CancellationToken); // shared tables grow once
            DisposeScopeManager.Statistics.Reset();
            likelihood.Score(requests, "scoring", SilentProgress.Instance, TestContext.Current.CancellationToken);
            DisposeScopeManager.Statistics.ThreadTotalLiveCount.ShouldBe(0);
            Should.Throw<OperationCanceledException>(() => likelihood.Score(requests, "scoring", SilentProgress.Instance, new CancellationToken(canceled: true)));
        }
    }

    /// <summary>No fake anywhere: text, tokeniser and trained model as they ship. At chance, 40 of 80 would be right, give or take 4.5.</summary>
    [Fact]
    public void The_default_model_prefers_what_its_author_wrote()
    {
        string assets = Path.Combine(TestPaths.Repository, "assets"), model = Path.Combine(assets, "default-model");
        string text = string.Join(' ', TextDataset.Open(DataReference.Parse(Path.Combine(assets, "austen", "heldout.jsonl"))).Documents).ReplaceLineEndings(" ");
        string[] spoken = text.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        string Words(int from, int count) => string.Join(' ', spoken[from..(from + count)]);
        TaskData data = new()
        {
            Task = ChoiceTasks.Find("openbookqa"),
            Source = DataReference.Parse("austen"),
            Questions = [.. Enumerable.Range(0, 80).Select(i => new ChoiceQuestion(Words(i * 400, 50), i % 2 == 0 ? [Words((i * 400) + 50, 12), Words((i * 400) + 250, 12)] : [Words((i * 400) + 250, 12), Words((i * 400) + 50, 12)], i % 2))],
        };
        using StreamedModel streamed = StreamedModel.Open(model);
        TaskResult result = MultipleChoice.Evaluate(data, ModelLikelihood.Of(streamed, Tokenizer.Load(model)), cancellation: TestContext.Current.CancellationToken);
        result[ChoiceMetric.Sum].Value.ShouldBeGreaterThan(0.6);
        result[ChoiceMetric.PerToken].Value.ShouldBeGreaterThan(0.6);
    }

    private static ModelConfig Config(string family, int positions) =>
        TinyModels.Config(family, ("vocab_size", 259), (family == "gpt2" ? "n_positions" : "max_position_embeddings", positions));

    /// <summary>A tokeniser with a token for each byte.</summary>
    private static Tokenizer Bytes(TemporaryFolder folder) => BpeTrainer.Train(words, new BpeTrainerOptions { VocabularySize = 259 }).Save(folder.Path);

    /// <summary>The full soft-max of one sequence, unpadded, from tokens that are put together by hand.</summary>
    private static double Alone(LanguageModel model, Tokenizer tokenizer, LikelihoodRequest request)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        long begin = tokenizer.BeginId ?? tokenizer.EndId!.Value;
        string context = request.Context.TrimEnd(), continuation = request.Context[context.Length..] + request.Continuation;
        long[] scored = [.. tokenizer.Encode(continuation, addSpecialTokens: false).Select(id => (long)id)];
        long[] all = [.. context.Length == 0 ? [begin] : tokenizer.Encode(context).Select(id => (long)id), .. scored];
        all = all[Math.Max(0, all.Length - model.Config.MaxPositions - 1)..];
        Tensor log = nn.functional.log_softmax(model.Logits(tensor(all[..^1]).unsqueeze(0)), -1).squeeze(0).to(float64);
        return Enumerable.Range(0, scored.Length).Sum(t => log[all.Length - 1 - scored.Length + t, scored[t]].item<double>());
    }

    private sealed class CountingProgress : IProgressSink, IProgressTask
    {
        public long Total { get; private set; }

        public long Advanced { get; private set; }

        public List<string> Warnings { get; } = [];

        public IProgressTask Begin(string name, long total, string unit)
        {
            Total = total;
            return this;
        }

        public void Warn(string message) => Warnings.Add(message);

        public void Advance(long units = 1) => Advanced += units;

        public void Say(string message)
        {
        }

        public void Report(string metric, long step, double value)
        {
        }

        public void Describe(string detail)
        {
        }

        public void Dispose()
        {
        }
    }
}
