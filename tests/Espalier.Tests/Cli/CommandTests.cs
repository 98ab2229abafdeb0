using System.Text.Json;
using Espalier.Catalogue;
using Espalier.Cli;
using Espalier.Cli.Commands;
using Espalier.Cli.Display;

namespace Espalier.Tests.Cli;

public sealed class CommandTests
{
    private const string Config = """
        {"model_type":"llama","hidden_size":32,"intermediate_size":64,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
         "vocab_size":300,"max_position_embeddings":64,"rms_norm_eps":1e-5,"hidden_act":"silu","tie_word_embeddings":true,"rope_theta":10000.0}
        """;

    [Fact]
    public async Task Doctor_finds_this_machine_ready()
    {
        Tool tool = await Tool.RunAsync("doctor", "--json");
        tool.Result.GetProperty("checks").EnumerateArray().Select(c => c.GetProperty("name").GetString())
            .ShouldBeSubsetOf(["libstdc++", "native libraries", "TorchSharp, libtorch", "computing", "convolutions", "GPU", "system", "processor", "memory", "packed kernels", "model cache", "hub", "working folder", "temporary folder"]);
        tool.Result.GetProperty("checks").EnumerateArray().Single(c => c.GetProperty("name").GetString() == "computing").GetProperty("health").GetString().ShouldBe("ok");
        tool.Code.ShouldBe(ExitCode.Success);
    }

    [Fact]
    public async Task Methods_lists_the_whole_catalogue_and_finds_one()
    {
        JsonElement all = (await Tool.RunAsync("methods", "--json")).Result;
        all.GetArrayLength().ShouldBe(MethodCatalogue.Default.Entries.Count);
        string text = (await Tool.RunAsync("methods")).Output;
        MethodCatalogue.Default.Entries.ShouldAllBe(e => text.Contains(e.Slug));
        (await Tool.RunAsync("methods", "wanda")).Output.ShouldContain("A Simple and Effective Pruning Approach");
    }

    [Fact]
    public void Methods_look_as_approved()
    {
        CatalogueEntry[] entries =
        [
            new("wanda", "A Simple and Effective Pruning Approach for Large Language Models", "Pruning", MethodState.Built, "Prunes by |weight| × input norm within each output row.", "arXiv 2306.11695", "criterion; unstructured or N:M; any allocator, repair and retraining", false, typeof(object)),
            new("minitron", "Compact Language Models via Pruning and Knowledge Distillation", "Pruning", MethodState.NotYet, "", "", "", true, null),
            new("sms", "Sparse Model Soups [and brackets]", "Merging", MethodState.NotYet, "", "", "", true, null),
        ];
        var text = new StringWriter();
        MethodsCommand.PrintList(Terminal.ConsoleFor(text, color: true), entries);
        MethodsCommand.PrintOne(Terminal.ConsoleFor(text, color: true), entries[1]);
        Golden.Check("methods", text.ToString());
    }

    [Fact]
    public async Task A_tokeniser_and_a_model_are_trained_inspected_measured_and_asked()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["text.txt"], string.Concat(Enumerable.Range(0, 400).Select(i => $"The cat number {i % 7} sat on the mat, and it was content; dogs like {i} bones. ")));
        File.WriteAllText(folder["config.json"], Config);

        Tool tokenizer = await Tool.RunAsync("tokenizer", "train", "--data", folder["text.txt"], "--vocab", "300", "--out", folder["tokenizer"], "--json");
        tokenizer.Result.GetProperty("vocabulary").GetInt32().ShouldBe(300);

        string[] train = ["train", "--config", folder["config.json"], "--tokenizer", folder["tokenizer"], "--data", folder["text.txt"], "--eval-data", folder["text.txt"], "--eval-windows", "4",
            "--steps", "12", "--batch", "4", "--length", "16", "--lr", "1e-2", "--warmup", "2", "--out", folder["model"], "--dtype", "bfloat16", "--json"];
        Tool trained = await Tool.RunAsync(train);
        trained.Code.ShouldBe(ExitCode.Success, trained.Error);
        trained.Result.GetProperty("steps").GetInt32().ShouldBe(12);
        trained.Result.GetProperty("perplexity").GetDouble().ShouldBeInRange(1, 290);
        trained.Result.GetProperty("readers").EnumerateArray().First().GetProperty("how").GetString()!.ShouldStartWith("Opened anew");
        Directory.Exists(Path.Combine(folder["model"], "training-state")).ShouldBeFalse();

        JsonElement inspected = (await Tool.RunAsync("inspect", folder["model"], "--json")).Result;
        inspected.GetProperty("tensors").EnumerateArray().ShouldAllBe(t => t.GetProperty("type").GetString() == "BF16");
        inspected.GetProperty("zeros").GetInt64().ShouldBeLessThan(20);

        JsonElement measured = (await Tool.RunAsync("eval", folder["model"], "--data", folder["text.txt"], "--context", "16", "--windows", "4", "--json")).Result;
        measured.GetProperty("perplexity").GetDouble().ShouldBe(trained.Result.GetProperty("perplexity").GetDouble(), 5); // bfloat16 on disk

        Tool asked = await Tool.RunAsync("generate", folder["model"], "--prompt", "The cat", "--max-tokens", "6", "--temperature", "0.7", "--seed", "3");
        asked.Output.ShouldStartWith("The cat");
        (await Tool.RunAsync("generate", folder["model"], "--prompt", "The cat", "--max-tokens", "6", "--temperature", "0.7", "--seed", "3")).Output.ShouldBe(asked.Output);
    }

    [Fact]
    public async Task Training_refuses_to_resume_what_is_not_there()
    {
        using var folder = new TemporaryFolder();
        Tool tool = await Tool.RunAsync("train", "--config", "x", "--data", "y", "--out", folder["m"], "--resume");
        tool.Code.ShouldBe(ExitCode.UserError);
        tool.Error.ShouldContain("holds no unfinished training");
    }

    [Fact]
    public async Task Verify_prints_a_line_per_system_and_refuses_an_empty_folder()
    {
        Tool tool = await Tool.RunAsync("verify", "--system", "wanda");
        tool.Output.Trim().Split('\n')[^1].ShouldMatch("^wanda: [0-9]+/[0-9]+$");
        tool.Code.ShouldBe(ExitCode.Success, tool.Output);
        using var folder = new TemporaryFolder();
        Tool empty = await Tool.RunAsync("verify", folder.Path);
        empty.Code.ShouldBe(ExitCode.UserError);
        empty.Error.ShouldContain("holds no reference cases");
    }
}
