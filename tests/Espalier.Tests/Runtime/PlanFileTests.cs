using Espalier.Pruning;
using Espalier.Runtime;

namespace Espalier.Tests.Runtime;

public sealed class PlanFileTests
{
    private const string Yaml = """
        model: ./llama            # a folder
        data:
          calibration: texts.jsonl
          samples: 32
        prune: { criterion: wanda, sparsity: 0.5, repair: none }
        retrain: { method: perp, subset: [biases, norms], steps: 200 }
        seed: 7
        out: ./out
        """;

    [Fact]
    public void A_plan_is_bound_to_the_request_of_its_words()
    {
        PruneRequest request = PlanFile.Parse(Yaml, "plan.yaml").Bind<PruneRequest>();
        request.Model.ShouldBe("./llama");
        request.Data.Samples.ShouldBe(32);
        request.Prune.Sparsity.ShouldBe(0.5);
        request.Seed.ShouldBe(7);
        request.Retrain.ShouldBeAssignableTo<System.Collections.IDictionary>();
    }

    [Fact]
    public void A_flag_changes_the_same_word_and_leaves_the_others()
    {
        PlanFile plan = PlanFile.Parse(Yaml, "plan.yaml");
        PruneRequest request = plan.With("prune.sparsity", "0.7").With("data.windows", "9").With("memory", "8GB").Bind<PruneRequest>();
        request.Prune.Sparsity.ShouldBe(0.7);
        request.Prune.Criterion.ShouldBe("wanda");
        request.Data.Windows.ShouldBe(9);
        request.Data.Samples.ShouldBe(32);
        request.Memory.ShouldBe("8GB");
        plan.Bind<PruneRequest>().Prune.Sparsity.ShouldBe(0.5);
    }

    [Fact]
    public void Flags_alone_make_a_plan()
    {
        PruneRequest request = PlanFile.Empty.With("model", "m").With("out", "o").With("prune.criterion", "magnitude").Bind<PruneRequest>();
        request.Prune.Criterion.ShouldBe("magnitude");
    }

    [Theory]
    [InlineData("sparsity: 0.5, repair", "sparsty: 0.5, repair", "plan.yaml, line 5: 'prune.sparsty' is no word of a plan under 'prune'", "Did you mean 'sparsity'?")]
    [InlineData("seed: 7", "sead: 7", "plan.yaml, line 7: 'sead' is no word of a plan", "Did you mean 'seed'?")]
    [InlineData("  samples: 32", "  samples: many", "plan.yaml, line 4: The option 'data.samples' takes a whole number, not 'many'", "")]
    [InlineData("seed: 7", "seed: 7\nseed: 8", "plan.yaml, line", "")]
    [InlineData("seed: 7", "Seed: 7\nseed: 8", "plan.yaml, line 8: 'seed' is there twice", "")]
    [InlineData("seed: 7", "seed: [7", "plan.yaml, line", "not YAML")]
    [InlineData("seed: 7", "seed: 7\n---\na: b", "2 documents", "")]
    [InlineData("seed: 7", "? [a, b]\n: 7", "plan.yaml, line 7: a word of the plan must be plain text", "")]
    public void What_is_wrong_is_named_with_its_line(string right, string wrong, string says, string also)
    {
        string message = Should.Throw<EspalierException>(() => PlanFile.Parse(Yaml.Replace(right, wrong), "plan.yaml").Bind<PruneRequest>()).Message;
        message.ShouldContain(says);
        message.ShouldContain(also);
    }

    [Theory]
    [InlineData("")]
    [InlineData("# nothing")]
    [InlineData("just text")]
    [InlineData("- a\n- b")]
    public void What_is_no_map_is_refused(string yaml) =>
        Should.Throw<EspalierException>(() => PlanFile.Parse(yaml, "plan.yaml")).Message.ShouldStartWith("plan.yaml");

    [Fact]
    public void A_file_that_multiplies_itself_is_refused()
    {
        string yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + string.Concat(Enumerable.Range(1, 9).Select(i =>
            $"a{i}: &a{i} [{string.Join(", ", Enumerable.Repeat($"*a{i - 1}", 10))}]\n"));
        Should.Throw<EspalierException>(() => PlanFile.Parse(yaml, "plan.yaml")).Message.ShouldContain("too large");
    }

    [Fact]
    public void A_word_under_a_word_that_is_no_map_is_refused() =>
        Should.Throw<EspalierException>(() => PlanFile.Parse(Yaml, "plan.yaml").With("seed.value", "1")).Message.ShouldContain("line 7");

    [Fact]
    public void A_missing_file_is_named() =>
        Should.Throw<EspalierException>(() => PlanFile.Read("nowhere.yaml")).Message.ShouldContain("nowhere.yaml");
}
