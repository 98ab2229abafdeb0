using Espalier.Methods.Pruning;
using Espalier.Methods.Pruning.Searching;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models;

namespace Espalier.Tests.Methods.Pruning.Searching;

public sealed class SearchPlanTests
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void The_parameters_of_a_llama_are_those_of_the_papers_formula(bool tied)
    {
        ModelConfig config = TinyModels.Config("llama", ("tie_word_embeddings", tied));
        foreach ((int layers, int heads, int neurons, int hidden) in new[] { (2, 4, 40, 24), (1, 2, 24, 16), (2, 2, 40, 16), (1, 4, 8, 24) })
        {
            var space = new MinitronSpace
            {
                Layers = [layers], Heads = [heads], FeedForward = [neurons], Embedding = [hidden], Vocabulary = config.VocabSize, HeadDim = config.HeadDim, KeyValueHeads = heads / 2, Tied = tied,
            };
            SearchAxes.Parameters(config, layers, heads, neurons, hidden).ShouldBe(space.Parameters(layers, heads, neurons, hidden));
        }
    }

    [Theory]
    [MemberData(nameof(TinyModels.Families), MemberType = typeof(TinyModels))]
    public void The_parameters_of_a_candidate_are_those_of_the_cut_model(string family)
    {
        using var folder = new TemporaryFolder();
        TinyModels.Write(folder.Path, TinyModels.Config(family));
        ModelConfig config = ModelConfig.Load(folder.Path);
        var job = new PruningJob
        {
            Model = folder.Path, Folder = folder.Path, Out = folder["out"],
            Plan = new PruningPlan { Criterion = new RandomChoice(), Pattern = Pattern.Structured(options: new() { Layers = 1, Heads = 2, Neurons = 24, Hidden = 16 }) },
        };
        using PrunedModel cut = Pruner.InMemory(job, SilentProgress.Instance);
        cut.Model.ParameterCount.ShouldBe(cut.Model.Tensors.Sum(t => t.Value.numel()));
        SearchAxes.Parameters(config, 1, 2, 24, 16).ShouldBe(cut.Model.ParameterCount);
        SearchAxes.Parameters(config, config.LayerCount, config.HeadCount, config.IntermediateSize, config.HiddenSize).ShouldBe(Architecture.For(config).ParameterCount(config));
    }

    [Fact]
    public void Sizes_that_are_not_named_are_fractions_of_the_models_own_and_candidates_are_spread_over_all()
    {
        ModelConfig config = ModelConfig.Load(Assets.DefaultModel);
        SearchPlan all = SearchPlan.Make(Request(new() { Parameters = "1.5M", Candidates = 1000 }), config);
        all.Fitting.ShouldBe(all.Candidates.Count);
        all.Candidates.ShouldAllBe(c => Math.Abs(c.Size.Parameters - 1_500_000) <= 75_000);
        all.Candidates.Select(c => c.Size.Layers).Distinct().ShouldBe([6, 5, 3], ignoreOrder: true);
        all.Candidates.ShouldAllBe(c => c.Size.FeedForward % 16 == 0 && c.Size.Embedding % 8 == 0 && c.Size.Heads == 2 * c.KeyValueHeads);

        SearchPlan some = SearchPlan.Make(Request(new() { Parameters = "1.5M", Candidates = 5 }), config);
        some.Candidates.Count.ShouldBe(5);
        some.Candidates[0].Name.ShouldBe(all.Candidates[0].Name);
        some.Candidates[4].Name.ShouldBe(all.Candidates[^1].Name);
        some.Sentence(0.05).ShouldContain($"{all.Fitting} architectures have 1,500,000 parameters within 5 % (the model has 2,828,736); 5 of them are tried");

        long nearest = all.Candidates.Min(c => Math.Abs(c.Size.Parameters - 1_500_000));
        Math.Abs(SearchPlan.Make(Request(new() { Parameters = "1.5M", Candidates = 1 }), config).Candidates.Single().Size.Parameters - 1_500_000).ShouldBe(nearest);
    }

    [Fact]
    public void The_model_itself_is_no_candidate_and_units_that_the_criterion_does_not_rank_stay()
    {
        ModelConfig config = ModelConfig.Load(Assets.DefaultModel);
        SearchPlan plan = SearchPlan.Make(Request(new() { Parameters = "2.7M", Tolerance = 0.3, Candidates = 1000 }) with { Prune = new() { Criterion = "wanda" } }, config);
        plan.Candidates.ShouldAllBe(c => c.Size.Layers == 6 && c.Size.Embedding == 192 && c.Size.Parameters < plan.Parameters);
        plan.Candidates.Select(c => (c.Size.Heads, c.Size.FeedForward)).ShouldBeUnique();
    }

    [Fact]
    public void Light_and_full_plans_differ_in_their_steps_alone()
    {
        SearchRequest request = Request(new() { Parameters = "1.5M", LightSteps = 7 }) with { Retrain = new Dictionary<string, object?> { ["method"] = "minitron", ["Steps"] = "90", ["learning_rate"] = "1e-3" } };
        SearchedArchitecture first = SearchPlan.Make(request, ModelConfig.Load(Assets.DefaultModel)).Candidates[0];
        var light = (Minitron)first.Light.Request.ToPlan().Retraining!;
        var full = (Minitron)first.Full.Request.ToPlan().Retraining!;
        (light.Steps, full.Steps, light.LearningRate, full.LearningRate).ShouldBe((7, 90, 1e-3, 1e-3));
        first.Full.Request.ToPlan().Pattern.ShouldBe(first.Light.Request.ToPlan().Pattern);
        first.Full.Request.ToPlan().Repair.ShouldBeNull();
    }

    [Fact]
    public void A_model_whose_blocks_differ_is_refused()
    {
        ModelConfig uneven = TinyModels.Config("llama", ("block_shapes", System.Text.Json.Nodes.JsonNode.Parse("[{ \"intermediate_size\": 40 }, { \"intermediate_size\": 24 }]")));
        Should.Throw<EspalierException>(() => SearchPlan.Make(Request(new() { Parameters = "3K" }), uneven)).Message.ShouldContain("differ in width already");
    }

    [Theory]
    [InlineData("1.5M", 1_500_000)]
    [InlineData(" 800k", 800_000)]
    [InlineData("7B", 7_000_000_000)]
    [InlineData("1,500,000", 1_500_000)]
    [InlineData("2e6", 2_000_000)]
    public void Numbers_of_parameters_are_read_as_people_write_them(string word, long count) => Text.ParseCount(word).ShouldBe(count);

    [Theory]
    [InlineData("")]
    [InlineData("M")]
    [InlineData("-1M")]
    [InlineData("many")]
    public void What_is_no_number_of_parameters_gets_a_sentence(string word) =>
        Should.Throw<EspalierException>(() => Text.ParseCount(word)).Message.ShouldContain("is no number of parameters");

    private static SearchRequest Request(SearchSection search) => new() { Model = "model", Out = "out", Search = search, Data = new DataSection { Calibration = "text", Evaluation = "text" } };
}
