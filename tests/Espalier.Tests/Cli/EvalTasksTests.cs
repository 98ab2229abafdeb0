using System.Text.Json;
using Espalier.Cli;
using Espalier.Cli.Commands;
using Espalier.Cli.Display;
using Espalier.Data;
using Espalier.Tests.Evaluation.Tasks;
using Espalier.Tests.Models;

namespace Espalier.Tests.Cli;

public sealed class EvalTasksTests
{
    [Fact]
    public void The_list_looks_as_approved()
    {
        var text = new StringWriter();
        TaskWords.PrintList(Terminal.ConsoleFor(text, color: false));
        Golden.Check("tasks", text.ToString());
    }

    [Fact]
    public async Task The_list_needs_no_model()
    {
        Tool tool = await Tool.RunAsync("eval", "--tasks", "list", "--json");
        tool.Code.ShouldBe(ExitCode.Success, tool.Error);
        tool.Result.EnumerateArray().Select(t => t.GetProperty("name").GetString()).ShouldContain("winogrande");
    }

    [Fact]
    public async Task Tasks_are_scored_alone_and_beside_perplexity()
    {
        using var folder = new TemporaryFolder();
        string model = Model(folder);
        File.WriteAllText(folder["piqa.jsonl"], $"{TaskFiles.Piqa}\n{TaskFiles.Piqa}\n{TaskFiles.Piqa}");
        Directory.CreateDirectory(folder["arc"]);
        await TaskFiles.WriteParquetAsync(folder["arc/test.parquet"], folder["hellaswag.parquet"]);
        File.Copy(folder["arc/test.parquet"], folder["arc/train.parquet"]);
        string[] words = ["eval", model, "--tasks", "piqa,arc_easy", "--task-data", $"piqa={folder["piqa.jsonl"]}", "--task-data", $"arc_easy={folder["arc"]}"];

        Tool shown = await Tool.RunAsync([.. words, "--limit", "2"]);
        shown.Code.ShouldBe(ExitCode.Success, shown.Error);
        shown.Output.ShouldMatch(@"piqa +│ +1\.0 │ +0 │ acc +│ [01]\.0+( ± 0\.0+)? │ 2 │");
        shown.Output.ShouldContain("acc_norm");

        File.WriteAllText(folder["text.txt"], string.Concat(Enumerable.Repeat("the cat sat on the mat. ", 30)));
        Tool both = await Tool.RunAsync([.. words, "--data", folder["text.txt"], "--windows", "2", "--output", folder["out.json"], "--json"]);
        JsonElement value = both.Result;
        value.GetProperty("perplexity").GetDouble().ShouldBeGreaterThan(1);
        value.GetProperty("results").GetProperty("piqa").GetProperty("acc,none").GetDouble().ShouldBeOneOf(0, 1);
        value.GetProperty("n-samples").GetProperty("arc_easy").GetProperty("effective").GetInt32().ShouldBe(2);
        value.GetProperty("configs").GetProperty("arc_easy").GetProperty("dataset_path").GetString().ShouldBe(folder["arc"]);
        JsonDocument.Parse(File.ReadAllText(folder["out.json"])).RootElement.GetProperty("results").ToString().Where(c => !char.IsWhiteSpace(c))
            .ShouldBe(value.GetProperty("results").ToString());

        Tool shots = await Tool.RunAsync("eval", model, "--tasks", "arc_easy", "--task-data", $"arc_easy={folder["arc"]}", "--few-shot", "2", "--seed", "3", "--json");
        shots.Result.GetProperty("n-shot").GetProperty("arc_easy").GetInt32().ShouldBe(2);
    }

    [Theory]
    [InlineData("There is nothing to measure")]
    [InlineData("There is no task 'piqua'", "--tasks", "piqua")]
    [InlineData("Did you mean 'piqa'?", "--tasks", "piqua")]
    [InlineData("names no task", "--tasks", ",")]
    [InlineData("cannot be read; write the task", "--tasks", "piqa", "--task-data", "x.jsonl")]
    [InlineData("none of the tasks to run (piqa)", "--tasks", "piqa", "--task-data", "arc_easy=x.jsonl")]
    [InlineData("twice", "--tasks", "piqa", "--task-data", "piqa=x.jsonl", "--task-data", "piqa=y.jsonl")]
    [InlineData("no file or folder \"x.jsonl\"", "--tasks", "piqa", "--task-data", "piqa=x.jsonl")]
    [InlineData("without --tasks", "--data", "x.txt", "--task-data", "piqa=x.jsonl")]
    [InlineData("limit of 0", "--tasks", "piqa", "--limit", "0")]
    [InlineData("-1 few-shot", "--tasks", "piqa", "--few-shot", "-1")]
    [InlineData("in a folder that does not exist", "--tasks", "piqa", "--output", "no-such-folder/out.json")]
    public async Task Wrong_words_are_a_sentence(string says, params string[] words)
    {
        Tool tool = await Tool.RunAsync(["eval", "no-model", .. words]);
        tool.Code.ShouldBe(ExitCode.UserError);
        tool.Error.ShouldContain(says);
    }

    [Fact]
    public async Task A_missing_model_and_too_few_examples_are_sentences()
    {
        using var folder = new TemporaryFolder();
        (await Tool.RunAsync("eval", "--data", "x.txt")).Error.ShouldContain("Which model to measure");
        File.WriteAllText(folder["validation.jsonl"], TaskFiles.Piqa);
        File.WriteAllText(folder["train.jsonl"], TaskFiles.Piqa);
        (await Tool.RunAsync("eval", "no-model", "--tasks", "piqa", "--task-data", $"piqa={folder.Path}", "--few-shot", "2")).Error.ShouldContain("2 few-shot examples are asked for");
    }

    private static string Model(TemporaryFolder folder)
    {
        string model = Directory.CreateDirectory(folder["model"]).FullName;
        TinyModels.Write(model, TinyModels.Config("llama", ("vocab_size", 259), ("max_position_embeddings", 128)));
        BpeTrainer.Train(["x"], new BpeTrainerOptions { VocabularySize = 259 }).Save(model);
        return model;
    }
}
