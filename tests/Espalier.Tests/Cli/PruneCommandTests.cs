using Espalier.Models;
using Espalier.Pruning;
using Espalier.Reporting;
using Espalier.Runtime;
using Espalier.Sparsity;

namespace Espalier.Tests.Cli;

public sealed class PruneCommandTests
{
    [Fact]
    public async Task Prune_writes_a_checkpoint_a_report_and_a_plan_that_gives_the_same_bytes_again()
    {
        using var folder = new TemporaryFolder();
        string first = folder["first"], second = folder["second"];
        Tool tool = await Tool.RunAsync("prune", Assets.DefaultModel, "--criterion", "magnitude", "--sparsity", "0.5", "--out", first);
        tool.Code.ShouldBe(0, tool.Error);
        tool.Output.ShouldContain("50 % of the prunable weights are zero");
        PruningReport report = ReportJson.Load<PruningReport>(Path.Combine(first, "report.json"));
        report.Pruned.ShouldBe(report.Prunable / 2);
        report.Readers.Select(r => r.Word).ShouldBe(["yes", "yes", "converted", "converted"]);
        tool.Output.ShouldContain("LlamaForCausalLM");
        File.ReadAllText(Path.Combine(first, "report.html")).ShouldSatisfyAllConditions(h => h.ShouldContain("<svg"), h => h.ShouldContain("Who loads it"));

        Tool again = await Tool.RunAsync("prune", Path.Combine(first, "plan.yaml"), "--out", second);
        again.Code.ShouldBe(0, again.Error);
        File.ReadAllBytes(Path.Combine(second, "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(first, "model.safetensors")));
    }

    [Theory]
    [InlineData("A sparsity of 1.5 is not possible", "--sparsity", "1.5")]
    [InlineData("groups of 7", "--criterion", "magnitude", "--pattern", "2:7")]
    [InlineData("Did you mean 'wanda'", "--criterion", "wandaa", "--sparsity", "0.5")]
    [InlineData("add --retrain perp", "--sparsity", "0.5", "--steps", "3")]
    [InlineData("needs calibration text", "--sparsity", "0.5")]
    [InlineData("ranks weights within each group", "--pattern", "2:4", "--scope", "row")]
    [InlineData("--round belongs to structured pruning", "--sparsity", "0.2", "--round", "8")]
    [InlineData("--kv-heads belongs to structured pruning", "--kv-heads", "1")]
    [InlineData("only structured does", "--pattern", "2:4", "--uniform")]
    [InlineData("Did you mean 'neurons'", "--pattern", "structured", "--sparsity", "0.2", "--units", "neuron")]
    [InlineData("key-value groups of 2", "--criterion", "magnitude", "--pattern", "structured", "--heads", "3")]
    [InlineData("'levls' is no option of rdprune", "--sparsity", "0.5", "--allocator", "rdprune", "--set", "prune.allocator.levls=4")]
    [InlineData("'int5' is no type of packed values", "--criterion", "magnitude", "--sparsity", "0.5", "--quantise", "int5")]
    [InlineData("'quantise' names no type", "--criterion", "magnitude", "--sparsity", "0.5", "--rounding", "rtn")]
    [InlineData("needs calibration text (sparsegpt looks at activations)", "--sparsity", "0", "--quantise", "int8", "--rounding", "sparsegpt")]
    [InlineData("nothing is quantised", "--criterion", "magnitude", "--pattern", "structured", "--sparsity", "0.2", "--quantise", "int8")]
    [InlineData("'lots' is no size", "--criterion", "magnitude", "--sparsity", "0.5", "--memory", "lots")]
    [InlineData("There is no file or folder \"nowhere.txt\"", "--criterion", "magnitude", "--sparsity", "0.5", "--retrain", "perp", "--train-data", "nowhere.txt")]
    [InlineData("needs calibration text (flap looks at activations)", "--criterion", "magnitude", "--repair", "flap", "--pattern", "structured", "--sparsity", "0.2")]
    public async Task A_plan_that_cannot_work_gets_a_sentence_and_writes_nothing(string sentence, params string[] words)
    {
        using var folder = new TemporaryFolder();
        Tool tool = await Tool.RunAsync(["prune", Assets.DefaultModel, "--out", folder["out"], .. words], CancellationToken.None);
        tool.Code.ShouldBe(2);
        tool.Error.ShouldContain(sentence);
        Directory.Exists(folder["out"]).ShouldBeFalse();
    }

    [Theory]
    [InlineData("prune-structured-sizes", "--neurons", "256", "--kv-heads", "2", "--uniform")]
    [InlineData("prune-structured-share", "--sparsity", "0.2", "--round", "8")]
    [InlineData("prune-structured-global", "--sparsity", "0.2", "--allocator", "global")]
    public async Task A_structured_preview_says_what_is_cut_where(string golden, params string[] words)
    {
        using var folder = new TemporaryFolder();
        Tool tool = await Tool.RunAsync(["prune", Assets.DefaultModel, "--criterion", "magnitude", "--pattern", "structured", .. words, "--out", folder["out"], "--dry-run"], CancellationToken.None);
        tool.Code.ShouldBe(0, tool.Error);
        // The first line has the model's path, and time depends on the machine.
        Golden.Check(golden, string.Join('\n', tool.Output.ReplaceLineEndings("\n").Split('\n').Skip(1).SkipWhile(l => !l.StartsWith("  criterion", StringComparison.Ordinal)).Where(l => !l.StartsWith("Estimated:", StringComparison.Ordinal))));
        Directory.Exists(folder["out"]).ShouldBeFalse();
    }

    [Fact]
    public async Task A_quantising_plan_says_so_beforehand_and_what_it_came_to()
    {
        using var folder = new TemporaryFolder();
        string[] words = ["prune", Assets.DefaultModel, "--sparsity", "0", "--quantise", "int4", "--set", "quantise.method=rtn", "--out", folder["out"]];
        Tool preview = await Tool.RunAsync([.. words, "--dry-run"], CancellationToken.None);
        preview.Output.ShouldContain("quantisation   int4 by rtn");
        Tool tool = await Tool.RunAsync(words, CancellationToken.None);
        tool.Code.ShouldBe(0, tool.Error);
        tool.Output.ShouldContain("No weight was pruned. The kept weights are rounded to int4.");
        tool.Output.ReplaceLineEndings(" ").ShouldContain("come back bit by bit");
        ReportJson.Load<PruningReport>(Path.Combine(folder["out"], "report.json")).Quantisation!.BitsPerWeight.ShouldBeInRange(4.5, 4.8);
        File.ReadAllText(Path.Combine(folder["out"], "plan.yaml")).ShouldContain("type: int4");
    }

    [Fact]
    public async Task A_structured_run_writes_a_smaller_model_and_a_plan_that_gives_the_same_bytes_again()
    {
        using var folder = new TemporaryFolder();
        string first = folder["first"], second = folder["second"];
        Tool tool = await Tool.RunAsync("prune", Assets.DefaultModel, "--criterion", "random", "--pattern", "structured", "--neurons", "256", "--hidden", "144", "--layers", "4", "--uniform", "--seed", "3", "--out", first);
        tool.Code.ShouldBe(0, tool.Error);
        tool.Output.ShouldContain("were cut out");
        tool.Output.ShouldContain("Speed here:");
        PruningReport report = ReportJson.Load<PruningReport>(Path.Combine(first, "report.json"));
        report.Structure!.HiddenAfter.ShouldBe(144);
        report.Structure.Blocks.Count(b => b.Kept).ShouldBe(4);
        ModelConfig config = ModelConfig.Load(first);
        (config.HiddenSize, config.IntermediateSize, config.LayerCount, config.HeadDim, config.BlockShapes).ShouldBe((144, 256, 4, 32, null));
        new FileInfo(Path.Combine(first, "model.safetensors")).Length.ShouldBeLessThan(new FileInfo(Path.Combine(Assets.DefaultModel, "model.safetensors")).Length / 2);

        Tool again = await Tool.RunAsync("prune", Path.Combine(first, "plan.yaml"), "--out", second);
        again.Code.ShouldBe(0, again.Error);
        File.ReadAllBytes(Path.Combine(second, "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(first, "model.safetensors")));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_subset_that_selects_nothing_is_refused_before_any_work(bool dryRun)
    {
        using var folder = new TemporaryFolder();
        string[] words = ["prune", Assets.DefaultModel, "--criterion", "magnitude", "--sparsity", "0.5", "--calibration", Assets.HeldOutText, "--retrain", "perp", "--subset", "biases", "--out", folder["out"]];
        Tool tool = await Tool.RunAsync([.. words, .. dryRun ? ["--dry-run"] : Array.Empty<string>()], CancellationToken.None);
        tool.Code.ShouldBe(2);
        tool.Error.ShouldContain("biases selects nothing");
        Directory.Exists(folder["out"]).ShouldBeFalse();
    }

    [Fact]
    public async Task A_retraining_text_that_is_too_short_is_refused_before_any_work()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["short.txt"], "a few words");
        Tool tool = await Tool.RunAsync("prune", Assets.DefaultModel, "--criterion", "magnitude", "--sparsity", "0.5", "--train-data", folder["short.txt"], "--retrain", "perp", "--out", folder["out"]);
        tool.Code.ShouldBe(2);
        tool.Error.ShouldContain("too few for windows of 256");
        Directory.Exists(folder["out"]).ShouldBeFalse();
    }

    [Fact]
    public async Task The_model_is_never_replaced_by_its_pruned_self()
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["model"]);
        foreach (string file in Directory.GetFiles(Assets.DefaultModel))
        {
            File.Copy(file, Path.Combine(folder["model"], Path.GetFileName(file)));
        }

        Directory.CreateSymbolicLink(folder["link"], folder["model"]);
        foreach (string same in new[] { folder["model"] + "/", folder["link"] })
        {
            Tool tool = await Tool.RunAsync("prune", folder["model"], "--criterion", "magnitude", "--sparsity", "0.5", "--out", same);
            tool.Code.ShouldBe(2);
            tool.Error.ShouldContain("the model's own");
        }

        File.ReadAllBytes(Path.Combine(folder["model"], "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(Assets.DefaultModel, "model.safetensors")));
        Tool inFile = await Tool.RunAsync("prune", folder["model"], "--criterion", "magnitude", "--sparsity", "0.5", "--out", Path.Combine(folder["model"], "config.json"));
        inFile.Error.ShouldContain("is a file; name a folder");
    }

    [Fact]
    public async Task Retraining_through_the_command_trains_a_small_share_and_revives_no_zero()
    {
        using var folder = new TemporaryFolder();
        Tool tool = await Tool.RunAsync(
            "prune", Assets.DefaultModel, "--criterion", "magnitude", "--sparsity", "0.6", "--train-data", Assets.HeldOutText, "--retrain", "perp",
            "--subset", "norms,masklora", "--rank", "2", "--alpha", "4", "--steps", "2", "--batch", "1", "--train-length", "16", "--out", folder["out"]);
        tool.Code.ShouldBe(0, tool.Error);
        PruningReport report = ReportJson.Load<PruningReport>(Path.Combine(folder["out"], "report.json"));
        report.Trained.ShouldBe(43_968);
        report.Losses.Count.ShouldBe(2);
        using LanguageModel model = LanguageModel.Load(folder["out"]);
        IReadOnlyDictionary<string, SparsityMask> masks = SparsityMasks.Load(folder["out"]);
        model.Blocks.SelectMany(b => b.Linears).Sum(l => masks[l.Name].Revived(l.Linear.Matrix.detach())).ShouldBe(0);
    }

    [Fact]
    public async Task A_plan_that_only_retrains_speaks_of_no_pruning()
    {
        using var folder = new TemporaryFolder();
        Tool tool = await Tool.RunAsync(
            "prune", Assets.DefaultModel, "--sparsity", "0", "--train-data", Assets.HeldOutText, "--retrain", "perp", "--subset", "norms", "--steps", "1", "--batch", "1", "--train-length", "16",
            "--evaluation", Assets.HeldOutText, "--windows", "1", "--context", "16", "--out", folder["out"]);
        tool.Code.ShouldBe(0, tool.Error);
        tool.Output.ShouldContain("No weight was pruned; the model was retrained. Perplexity went from");
        tool.Output.ShouldNotContain("prunable weights are zero");
        ReportJson.Load<PruningReport>(Path.Combine(folder["out"], "report.json")).Quality.Select(q => q.Stage).ShouldBe(["dense", "retrained"]);
        string page = File.ReadAllText(Path.Combine(folder["out"], "report.html"));
        page.ShouldNotContain("Where the zeros are");
        page.ShouldContain("retrained");
    }

    [Fact]
    public async Task Distillation_through_the_command_says_what_its_losses_are()
    {
        using var folder = new TemporaryFolder();
        Tool tool = await Tool.RunAsync(
            "prune", Assets.DefaultModel, "--criterion", "magnitude", "--sparsity", "0.6", "--train-data", Assets.HeldOutText, "--retrain", "minitron",
            "--steps", "2", "--batch", "1", "--train-length", "16", "--lr", "1e-3", "--out", folder["out"]);
        tool.Code.ShouldBe(0, tool.Error);
        PruningReport report = ReportJson.Load<PruningReport>(Path.Combine(folder["out"], "report.json"));
        report.LossName.ShouldBe("distance to the teacher (kld)");
        report.Trained.ShouldBe(report.Parameters);
    }

    [Fact]
    public async Task ProSparse_through_the_command_prunes_no_weight_and_counts_silent_activations()
    {
        using var folder = new TemporaryFolder();
        Tool tool = await Tool.RunAsync(
            "prune", Assets.DefaultModel, "--sparsity", "0", "--train-data", Assets.HeldOutText, "--retrain", "prosparse",
            "--steps", "20", "--batch", "1", "--train-length", "16", "--out", folder["out"]);
        tool.Code.ShouldBe(0, tool.Error);
        tool.Output.ShouldContain("of the feed-forward activations are zero (0 % before");
        PruningReport report = ReportJson.Load<PruningReport>(Path.Combine(folder["out"], "report.json"));
        report.Pruned.ShouldBe(0);
        report.Activations!.Count.ShouldBe(report.Blocks.Count);
        report.Activations.ShouldAllBe(a => a.Before == 0 && a.Trained > 0.2 && a.Shifted > a.Trained);
        ModelConfig.Load(folder["out"]).ActivationThreshold.ShouldBe(0.01);
    }
}
