using System.Text.Json.Nodes;
using Espalier.Evaluation.Tasks;
using Espalier.Runtime;

namespace Espalier.Tests.Evaluation.Tasks;

public sealed class MultipleChoiceTests
{
    /// <summary>Four winners of one question: by sum, by character, by byte and by token.</summary>
    [Fact]
    public void Each_metric_has_its_own_winner()
    {
        string[] answers = ["ab", "abcdefgh", "éééééé", "x y z"];
        LikelihoodScore[] scores = [new(-2, 1), new(-4, 1), new(-3.6, 2), new(-2.5, 10)];
        // per character: -1, -0.5, -0.6, -0.5 (the first of equals); per byte: -1, -0.5, -0.3, -0.5; per token: -2, -4, -1.8, -0.25
        ChoiceTask.Pick(ChoiceMetric.Sum, answers, scores).ShouldBe(0);
        ChoiceTask.Pick(ChoiceMetric.PerCharacter, answers, scores).ShouldBe(1);
        ChoiceTask.Pick(ChoiceMetric.PerByte, answers, scores).ShouldBe(2);
        ChoiceTask.Pick(ChoiceMetric.PerToken, answers, scores).ShouldBe(3);
    }

    [Fact]
    public void Characters_are_code_points_and_the_first_of_equals_wins()
    {
        ChoiceTask.Pick(ChoiceMetric.PerCharacter, ["ab", "😀😀😀"], [new(-2, 1), new(-3, 1)]).ShouldBe(0); // 3 code points, 6 UTF-16 units
        ChoiceTask.Pick(ChoiceMetric.Sum, ["a", "b", "c"], [new(-2, 1), new(-1, 1), new(-1, 1)]).ShouldBe(1);
    }

    [Fact]
    public void A_task_is_scored_with_the_delimiter_and_counted_by_metric()
    {
        using var folder = new TemporaryFolder();
        TaskData data = TaskFiles.Open(folder, "piqa", TaskFiles.Piqa, TaskFiles.Piqa.Replace("\"label\":0", "\"label\":1", StringComparison.Ordinal), TaskFiles.Piqa);
        // Sum: "Sing to it" (10 characters) wins; by character "Twist the lid" (13) does.
        var oracle = new Oracle(r => r.Continuation == " Twist the lid" ? new(-11, 3) : new(-10, 2));
        TaskResult result = MultipleChoice.Evaluate(data, oracle);
        oracle.Asked.Count.ShouldBe(6);
        oracle.Asked[..2].ShouldBe([new("Question: Open a jar\nAnswer:", " Twist the lid"), new("Question: Open a jar\nAnswer:", " Sing to it")]);
        result[ChoiceMetric.Sum].Value.ShouldBe(1 / 3.0, 1e-12);
        result[ChoiceMetric.PerCharacter].Value.ShouldBe(2 / 3.0, 1e-12);
        result[ChoiceMetric.PerByte].Value.ShouldBe(2 / 3.0, 1e-12);
        result[ChoiceMetric.PerToken].Value.ShouldBe(2 / 3.0, 1e-12);
        result[ChoiceMetric.Sum].StandardError.ShouldBe(1 / 3.0, 1e-12); // √(1/3 · 2/3 / 2)
        (result.Questions, result.Available).ShouldBe((3, 3));

        TaskResult first = MultipleChoice.Evaluate(data, oracle, new MultipleChoiceOptions { Limit = 1 });
        (first.Questions, first.Available, first[ChoiceMetric.PerCharacter].Value).ShouldBe((1, 3, 1));
        first[ChoiceMetric.Sum].StandardError.ShouldBe(double.NaN);
    }

    [Fact]
    public void WinoGrande_asks_the_same_continuation_after_either_name()
    {
        using var folder = new TemporaryFolder();
        TaskData data = TaskFiles.Open(folder, "winogrande", TaskFiles.Winogrande);
        var oracle = new Oracle(r => new(r.Context.EndsWith("the cup", StringComparison.Ordinal) ? -1 : -2, 4));
        TaskResult result = MultipleChoice.Evaluate(data, oracle);
        oracle.Asked.Select(r => r.Continuation).ShouldBe([" was too big.", " was too big."]);
        result.Scores.Single().ShouldBe(new TaskScore(ChoiceMetric.Sum, 1, double.NaN));
        Should.Throw<KeyNotFoundException>(() => result[ChoiceMetric.PerByte]).Message.ShouldContain("acc_bytes");
    }

    [Fact]
    public void Examples_are_solved_questions_of_the_question_and_the_seed()
    {
        using var folder = new TemporaryFolder();
        TaskData data = TaskFiles.Open(folder, "piqa", [.. Enumerable.Repeat(TaskFiles.Piqa, 3)]);
        data = data with { Examples = [.. Enumerable.Range(0, 9).Select(i => new ChoiceQuestion($"Question: {i}\nAnswer:", ["wrong", $"right {i}"], 1))] };
        var options = new MultipleChoiceOptions { FewShot = 4, Seed = new Seed(1) };
        string text = MultipleChoice.Examples(data, 0, options);
        text.ShouldMatch(@"^(Question: (\d)\nAnswer: right \2\n\n){4}$");
        text.Split("\n\n").Distinct().Count().ShouldBe(5); // four different ones, and nothing after the last
        MultipleChoice.Examples(data, 0, options).ShouldBe(text);
        MultipleChoice.Examples(data, 1, options).ShouldNotBe(text);
        MultipleChoice.Examples(data, 0, options with { Seed = new Seed(2) }).ShouldNotBe(text);
        MultipleChoice.Examples(data, 0, options with { FewShot = 0 }).ShouldBe("");

        var oracle = new Oracle(_ => new(-1, 1));
        MultipleChoice.Evaluate(data, oracle, options);
        oracle.Asked[0].ShouldBe(new LikelihoodRequest($"{text}Question: Open a jar\nAnswer:", " Twist the lid"));
        Should.Throw<EspalierException>(() => MultipleChoice.Evaluate(data, oracle, options with { FewShot = 10 })).Message.ShouldContain("has 9 in its split \"train\"");
        Should.Throw<EspalierException>(() => options with { FewShot = -1 }).Message.ShouldContain("-1 few-shot");
        Should.Throw<EspalierException>(() => options with { Limit = 0 }).Message.ShouldContain("limit of 0");
    }

    [Theory]
    [InlineData(3, 4, 0.75, 0.25)]
    [InlineData(50, 101, 0.4950495, 0.04999755)]
    [InlineData(5, 5, 1, 0)]
    public void The_standard_error_is_that_of_a_share(int right, int questions, double share, double error)
    {
        TaskScore score = TaskScore.Of(ChoiceMetric.Sum, right, questions);
        score.Value.ShouldBe(share, 1e-7);
        score.StandardError.ShouldBe(error, 1e-7);
    }

    [Fact]
    public void Results_are_laid_out_as_the_harness_does()
    {
        using var folder = new TemporaryFolder();
        TaskData data = TaskFiles.Open(folder, "piqa", TaskFiles.Piqa, TaskFiles.Piqa);
        var options = new MultipleChoiceOptions { Limit = 1, Seed = new Seed(5) };
        TaskResult limited = MultipleChoice.Evaluate(data, new Oracle(r => new(-r.Continuation.Length, 1)), options);
        TaskResult whole = MultipleChoice.Evaluate(TaskFiles.Open(folder, "boolq", TaskFiles.Rows["boolq"], TaskFiles.Rows["boolq"]), new Oracle(r => new(-r.Continuation.Length, 1)));
        JsonObject report = HarnessReport.Of([limited, whole], "org/model", options);
        report.Select(p => p.Key).ShouldBe(["results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config"]);
        report["results"]!.ToJsonString().ShouldBe(
            """{"piqa":{"name":"piqa","alias":"piqa","sample_len":1,"acc,none":0,"acc_stderr,none":"N/A","acc_norm,none":1,"acc_norm_stderr,none":"N/A","acc_bytes,none":1,"acc_bytes_stderr,none":"N/A","acc_tokens,none":0,"acc_tokens_stderr,none":"N/A"},"boolq":{"name":"boolq","alias":"boolq","sample_len":2,"acc,none":0,"acc_stderr,none":0}}""");
        report["versions"]!.ToJsonString().ShouldBe("""{"piqa":1.0,"boolq":2.0}""");
        report["n-shot"]!.ToJsonString().ShouldBe("""{"piqa":0,"boolq":0}""");
        report["n-samples"]!.ToJsonString().ShouldBe("""{"piqa":{"original":2,"effective":1},"boolq":{"original":2,"effective":2}}""");
        report["config"]!.ToJsonString().ShouldBe("""{"model":"espalier","model_args":"pretrained=org/model","limit":1,"fewshot_seed":5}""");
        report["configs"]!["piqa"]!["metadata"]!.ToJsonString().ShouldBe("""{"version":1.0}""");
    }
}
