using Espalier.Data;
using Espalier.Evaluation.Tasks;
using Espalier.Runtime;

namespace Espalier.Tests.Evaluation.Tasks;

public sealed class ChoiceTasksTests
{
    [Theory]
    [InlineData("arc_challenge", "Question: Two?\nAnswer:", "x|y|z|w", 3)]
    [InlineData("arc_easy", "Question: Which gas do plants take in?\nAnswer:", "oxygen|carbon dioxide|helium", 1)]
    [InlineData("boolq", "The sky is blue.\nQuestion: is the sky blue?\nAnswer:", "no|yes", 1)]
    [InlineData("hellaswag", "Making tea: How to make tea. Boil water. A woman", "pours it in a cup.|flies away.|sleeps.", 0)]
    [InlineData("openbookqa", "Birds can", "fly|melt", 0)]
    [InlineData("piqa", "Question: Open a jar\nAnswer:", "Twist the lid|Sing to it", 0)]
    [InlineData("rte", "A cat sleeps.\nQuestion: A cat is awake. True or False?\nAnswer:", "True|False", 1)]
    public void Prompts_and_choices_are_those_of_the_harness(string task, string prompt, string answers, int gold)
    {
        using var folder = new TemporaryFolder();
        ChoiceQuestion question = TaskFiles.Open(folder, task, TaskFiles.Rows[task]).Questions.Single();
        question.Prompts.ShouldAllBe(p => p == prompt);
        question.Answers.ShouldBe(answers.Split('|'));
        question.Gold.ShouldBe(gold);
        question.Solved.ShouldBe($"{prompt} {answers.Split('|')[gold]}");
    }

    [Fact]
    public void WinoGrande_has_the_choice_in_the_prompt_and_scores_what_follows()
    {
        using var folder = new TemporaryFolder();
        ChoiceQuestion question = TaskFiles.Open(folder, "winogrande", TaskFiles.Winogrande).Questions.Single();
        question.Prompts.ShouldBe(["The cup did not fit in the box because the cup", "The cup did not fit in the box because the box"]);
        question.Answers.ShouldBe(["was too big.", "was too big."]);
        question.Gold.ShouldBe(0);
        question.Solved.ShouldBe("The cup did not fit in the box because the cup was too big.");
    }

    [Fact]
    public void Boolq_is_read_as_either_hub_publishes_it()
    {
        using var folder = new TemporaryFolder();
        TaskData data = TaskFiles.Open(folder, "boolq", """{"question":"q","answer":false,"passage":"p"}""", """{"question":"q","answer":true,"passage":"p"}""");
        data.Questions.Select(q => q.Gold).ShouldBe([0, 1]);
    }

    [Fact]
    public void Tasks_without_lists_are_read_from_csv_too()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["a.csv"], "goal,sol1,sol2,label\n\"add, twice\",1,2,1\n");
        TaskData.Open(ChoiceTasks.Find("piqa"), DataReference.Parse(folder["a.csv"])).Questions.Single().Solved.ShouldBe("Question: add, twice\nAnswer: 2");
    }

    [Fact]
    public void Every_task_has_its_version_data_and_metrics()
    {
        ChoiceTasks.All.Select(t => t.Name).ShouldBe(TaskFiles.Rows.Keys.Order(StringComparer.Ordinal));
        ChoiceTasks.All.Where(t => t.Version != 1.0m).Select(t => (t.Name, t.Version)).ShouldBe([("boolq", 2.0m)]);
        ChoiceTasks.All.Select(t => t.Data.ToString()).ShouldBe([
            "allenai/ai2_arc:ARC-Challenge:test", "allenai/ai2_arc:ARC-Easy:test", "aps/super_glue:boolq:validation", "Rowan/hellaswag:validation",
            "allenai/openbookqa:main:test", "baber/piqa:validation", "nyu-mll/glue:rte:validation", "allenai/winogrande:winogrande_xl:validation"]);
        ChoiceTasks.All.Where(t => t.Metrics.SequenceEqual([ChoiceMetric.Sum])).Select(t => t.Name).ShouldBe(["boolq", "rte", "winogrande"]);
    }

    [Fact]
    public void An_unknown_task_is_a_sentence_with_the_nearest() =>
        Should.Throw<EspalierException>(() => ChoiceTasks.Find("arc_esay")).Message.ShouldEndWith("Did you mean 'arc_easy'?");

    [Fact]
    public async Task Parquet_with_structs_and_lists_gives_the_same_questions()
    {
        using var folder = new TemporaryFolder();
        await TaskFiles.WriteParquetAsync(folder["arc.parquet"], folder["hellaswag.parquet"]);
        IReadOnlyList<ChoiceQuestion> arc = TaskData.Open(ChoiceTasks.Find("arc_easy"), DataReference.Parse(folder["arc.parquet"])).Questions;
        arc.Select(q => (q.Solved, q.Answers.Count)).ShouldBe([("Question: Which gas do plants take in?\nAnswer: carbon dioxide", 3), ("Question: Two?\nAnswer: y", 2)]);
        ChoiceQuestion scene = TaskData.Open(ChoiceTasks.Find("hellaswag"), DataReference.Parse(folder["hellaswag.parquet"])).Questions.Single();
        ChoiceQuestion fromJson = TaskFiles.Open(folder, "hellaswag", TaskFiles.Rows["hellaswag"]).Questions.Single();
        (scene.Solved, scene.Gold).ShouldBe((fromJson.Solved, fromJson.Gold));
        scene.Answers.ShouldBe(fromJson.Answers);
    }

    [Theory]
    [InlineData("piqa", """{"goal":"g","sol1":"a","label":0}""", "needs the column \"sol2\"")]
    [InlineData("boolq", """{"question":"q","passage":"p"}""", "\"label\" or \"answer\"")]
    [InlineData("arc_easy", """{"question":"q","choices":{"text":["a","b"]},"answerKey":"A"}""", "needs the column \"choices.label\"")]
    [InlineData("piqa", """{"goal":"g","sol1":"a","sol2":"b","label":2}""", "Row 1 of")]
    [InlineData("piqa", """{"goal":"g","sol1":"a","sol2":"b","label":-1}""", "there are 2 choices")]
    [InlineData("piqa", """{"goal":"g","sol1":"a","sol2":null,"label":1}""", "\"sol2\" is empty")]
    [InlineData("hellaswag", """{"activity_label":"a","ctx_a":"b","ctx_b":"c","endings":["d","e"],"label":""}""", "no number of a choice")]
    [InlineData("hellaswag", """{"activity_label":"a","ctx_a":"b","ctx_b":"c","endings":["d"],"label":"0"}""", "at least two")]
    [InlineData("arc_easy", """{"question":"q","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"C"}""", "none of the choices A, B")]
    [InlineData("arc_easy", """{"question":"q","choices":{"text":[1,2],"label":["A","B"]},"answerKey":"A"}""", "no list of texts")]
    [InlineData("winogrande", """{"sentence":"no gap","option1":"a","option2":"b","answer":"1"}""", "no blank")]
    [InlineData("winogrande", """{"sentence":"a _ b","option1":"a","option2":"b","answer":"3"}""", "choice 2 (counted from 0)")]
    public void Rows_that_are_no_question_are_a_sentence(string task, string row, string says)
    {
        using var folder = new TemporaryFolder();
        Should.Throw<EspalierException>(() => TaskFiles.Open(folder, task, row)).Message.ShouldContain(says);
    }

    [Fact]
    public void An_empty_file_is_a_sentence()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["empty.jsonl"], "");
        Should.Throw<EspalierException>(() => TaskData.Open(ChoiceTasks.Find("piqa"), DataReference.Parse(folder["empty.jsonl"]))).Message.ShouldContain("needs the column \"goal\"");
        File.WriteAllText(folder["empty.csv"], "goal,sol1,sol2,label\n");
        Should.Throw<EspalierException>(() => TaskData.Open(ChoiceTasks.Find("piqa"), DataReference.Parse(folder["empty.csv"]))).Message.ShouldContain("has no question");
    }

    [Fact]
    public void Splits_are_as_usual_where_the_reference_leaves_them_open()
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["data"]);
        File.WriteAllText(folder["data/validation.jsonl"], TaskFiles.Piqa);
        File.WriteAllText(folder["data/train.jsonl"], $"{TaskFiles.Piqa}\n{TaskFiles.Piqa}");
        TaskData data = TaskData.Open(ChoiceTasks.Find("piqa"), DataReference.Parse(folder.Path), withExamples: true);
        (data.Questions.Count, data.Examples.Count, data.Source.Split).ShouldBe((1, 2, "validation"));
        TaskData.Open(ChoiceTasks.Find("piqa"), DataReference.Parse($"{folder.Path}:train")).Questions.Count.ShouldBe(2);

        string Asked(string source) => Should.Throw<EspalierException>(() => TaskData.Open(ChoiceTasks.Find("piqa"), DataReference.Parse(source), withExamples: true)).Message;
        Asked(folder["data/validation.jsonl"]).ShouldContain("is one file; give a folder");
        File.Delete(folder["data/train.jsonl"]);
        Asked(folder.Path).ShouldContain("has no split \"train\"");
        Asked($"{folder.Path}#goal").ShouldContain("leave that out");
    }

    [Fact]
    public void A_hub_id_gets_the_tasks_configuration_only_where_it_is_the_tasks_own()
    {
        using var folder = new TemporaryFolder();
        foreach (string config in new[] { "ARC-Easy", "ARC-Challenge" })
        {
            Directory.CreateDirectory(folder[config]);
            File.WriteAllText(folder[$"{config}/test-00000-of-00001.jsonl"], config == "ARC-Easy" ? TaskFiles.Arc : $"{TaskFiles.Arc}\n{TaskFiles.Arc}");
        }

        string Snapshot(string id) => folder.Path;
        TaskData.Open(ChoiceTasks.Find("arc_easy"), null, Snapshot).Questions.Count.ShouldBe(1);
        TaskData.Open(ChoiceTasks.Find("arc_challenge"), DataReference.Parse("allenai/ai2_arc"), Snapshot).Questions.Count.ShouldBe(2);
        TaskData.Open(ChoiceTasks.Find("arc_easy"), DataReference.Parse("somebody/arc:ARC-Challenge:test"), Snapshot).Questions.Count.ShouldBe(2);
        Should.Throw<EspalierException>(() => TaskData.Open(ChoiceTasks.Find("arc_easy"), DataReference.Parse("somebody/arc"), Snapshot)).Message.ShouldContain("configurations ARC-Challenge, ARC-Easy");
    }
}
