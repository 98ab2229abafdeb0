using Espalier.Models;
using Espalier.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace Espalier.Tests.Models;

public sealed class TextGeneratorTests
{
    private static readonly int[] Prompt = [3, 1, 4, 1, 5];

    public static TheoryData<string> Families => TinyModels.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public void Cached_logits_are_those_without_a_cache(string family)
    {
        using LanguageModel model = TinyModels.Create(family);
        CachedMatchesUncached(model);
    }

    [Fact]
    public void Cached_logits_are_those_without_a_cache_with_a_window()
    {
        using LanguageModel model = TinyModels.Create(TinyModels.Config("mistral", ("sliding_window", 4)));
        CachedMatchesUncached(model);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Greedy_generation_does_not_depend_on_the_cache(string family)
    {
        using LanguageModel model = TinyModels.Create(family);
        var generator = new TextGenerator(model);
        int[] cached = [.. generator.Generate(Prompt, new GenerationOptions { MaxNewTokens = 12 })];
        cached.Length.ShouldBe(12);
        generator.Generate(Prompt, new GenerationOptions { MaxNewTokens = 12, UseCache = false }).ShouldBe(cached);
    }

    [Fact]
    public void Greedy_generation_takes_the_most_likely_token()
    {
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        long expected = model.Logits(tensor(Prompt.Select(i => (long)i).ToArray()).unsqueeze(0))[0, -1].argmax().item<long>();
        new TextGenerator(model).Generate(Prompt, new GenerationOptions { MaxNewTokens = 1 }).Single().ShouldBe((int)expected);
    }

    [Fact]
    public void Sampling_repeats_with_its_seed_and_changes_with_another()
    {
        using LanguageModel model = TinyModels.Create("gpt2");
        var generator = new TextGenerator(model);
        var options = new GenerationOptions { MaxNewTokens = 16, Temperature = 3, Seed = new Seed(1) };
        int[] first = [.. generator.Generate(Prompt, options)];
        generator.Generate(Prompt, options).ShouldBe(first);
        generator.Generate(Prompt, options with { Seed = new Seed(2) }).ShouldNotBe(first);
    }

    [Fact]
    public void Top_k_of_one_and_a_tiny_top_p_are_greedy()
    {
        using LanguageModel model = TinyModels.Create("qwen3");
        var generator = new TextGenerator(model);
        int[] greedy = [.. generator.Generate(Prompt, new GenerationOptions { MaxNewTokens = 8 })];
        generator.Generate(Prompt, new GenerationOptions { MaxNewTokens = 8, Temperature = 5, TopK = 1 }).ShouldBe(greedy);
        generator.Generate(Prompt, new GenerationOptions { MaxNewTokens = 8, Temperature = 5, TopP = 1e-9 }).ShouldBe(greedy);
    }

    [Fact]
    public void Sampled_frequencies_follow_the_softmax()
    {
        using LanguageModel model = TinyModels.Create("opt");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor probabilities = (model.Logits(tensor(Prompt.Select(i => (long)i).ToArray()).unsqueeze(0))[0, -1] / 2).softmax(0);
        (Tensor top, Tensor index) = probabilities.topk(1, 0);
        (double share, int id) = (top.item<float>(), (int)index.item<long>());
        var generator = new TextGenerator(model);
        const int Draws = 600;
        int hits = Enumerable.Range(0, Draws).Count(i => generator.Generate(Prompt, new GenerationOptions { MaxNewTokens = 1, Temperature = 2, Seed = new Seed(i) }).Single() == id);
        ((double)hits / Draws).ShouldBe(share, 4 * Math.Sqrt(share * (1 - share) / Draws));
    }

    [Fact]
    public void Generation_stops_after_the_ending_token()
    {
        using LanguageModel model = TinyModels.Create("llama");
        var generator = new TextGenerator(model);
        int[] all = [.. generator.Generate(Prompt, new GenerationOptions { MaxNewTokens = 10 })];
        int end = all[4];
        int[] ended = [.. generator.Generate(Prompt, new GenerationOptions { MaxNewTokens = 10, EosTokenIds = [end] })];
        ended.ShouldBe(all[..(Array.IndexOf(all, end) + 1)]);
    }

    [Fact]
    public void Generation_ends_when_cancelled()
    {
        using LanguageModel model = TinyModels.Create("llama");
        using var source = new CancellationTokenSource();
        using IEnumerator<int> ids = new TextGenerator(model).Generate(Prompt, new GenerationOptions { MaxNewTokens = 9 }, source.Token).GetEnumerator();
        ids.MoveNext().ShouldBeTrue();
        source.Cancel();
        Should.Throw<OperationCanceledException>(() => ids.MoveNext());
    }

    [Fact]
    public void Faults_are_sentences_before_any_work()
    {
        using LanguageModel model = TinyModels.Create("llama");
        var generator = new TextGenerator(model);
        Should.Throw<EspalierException>(() => generator.Generate([])).Message.ShouldContain("no tokens");
        Should.Throw<EspalierException>(() => generator.Generate([37])).Message.ShouldContain("37");
        Should.Throw<EspalierException>(() => generator.Generate(Prompt, new GenerationOptions { MaxNewTokens = 28 })).Message.ShouldContain("context of 32");
        Should.Throw<EspalierException>(() => new GenerationOptions { Temperature = -1 });
        Should.Throw<EspalierException>(() => new GenerationOptions { TopP = 0 });
        Should.Throw<EspalierException>(() => new GenerationOptions { TopK = 0 });
        Should.Throw<EspalierException>(() => new GenerationOptions { MaxNewTokens = 0 });
    }

    [Fact]
    public void Generation_leaves_no_tensor_behind()
    {
        using LanguageModel model = TinyModels.Create("mistral");
        var generator = new TextGenerator(model);
        generator.Generate(Prompt, new GenerationOptions { MaxNewTokens = 4 }).Count().ShouldBe(4);
        ThreadDisposeScopeStatistics before = DisposeScopeManager.Statistics;
        before.Reset();
        generator.Generate(Prompt, new GenerationOptions { MaxNewTokens = 6, Temperature = 1, TopK = 5, TopP = 0.9 }).Count().ShouldBe(6);
        DisposeScopeManager.Statistics.ThreadTotalLiveCount.ShouldBe(0);
    }

    private static void CachedMatchesUncached(LanguageModel model)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using var cache = new KeyValueCache(model.Config);
        Tensor ids = TinyModels.Ids(model.Config, 2, 14);
        Tensor whole = model.Logits(ids);
        // A prompt, a second piece of several tokens, then single tokens: every path of the mask.
        Tensor pieces = cat([.. new[] { (0, 6), (6, 4), (10, 1), (11, 1), (12, 2) }.Select(p => model.Logits(ids.narrow(1, p.Item1, p.Item2), cache))], 1);
        cache.Length.ShouldBe(14);
        (whole - pieces).abs().max().item<float>().ShouldBeLessThan(1e-4f);
        cache.Truncate(6);
        (whole.narrow(1, 6, 4) - model.Logits(ids.narrow(1, 6, 4), cache)).abs().max().item<float>().ShouldBeLessThan(1e-4f);
    }
}
