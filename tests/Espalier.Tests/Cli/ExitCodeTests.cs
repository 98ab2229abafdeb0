using Espalier.Cli;
using TorchSharp;

namespace Espalier.Tests.Cli;

public sealed class ExitCodeTests
{
    [Theory]
    [InlineData("methds", "error: 'methds' is no command.\nhint: did you mean 'methods'?\n")]
    [InlineData("frobnicate", "error: 'frobnicate' is no command.\nhint: `espalier --help` shows its words with examples.\n")]
    [InlineData("doctor --jsn", "error: Unrecognized command or argument '--jsn'.\nhint: did you mean '--json'?\n")]
    [InlineData("doctor --threads 0", "error: --threads 0 is not possible; give 1 or more, or leave it out for one per core.\nhint: `espalier doctor --help` shows its words with examples.\n")]
    [InlineData("tokenizer", "error: say what to do with a tokeniser.\nhint: `espalier tokenizer --help` shows its words with examples.\n")]
    [InlineData("generate", "error: Option '--prompt' is required.\nhint: `espalier generate --help` shows its words with examples.\n")]
    public async Task Wrong_words_end_with_2_and_say_what_to_do(string words, string sentence)
    {
        Tool tool = await Tool.RunAsync(words.Split(' '));
        tool.Code.ShouldBe(ExitCode.UserError);
        tool.Output.ShouldBeEmpty();
        tool.Error.ReplaceLineEndings("\n").ShouldBe(sentence);
    }

    [Fact]
    public async Task An_error_the_user_can_mend_is_one_sentence_and_2()
    {
        Tool tool = await Tool.RunAsync("methods", "zzzzz");
        tool.Code.ShouldBe(ExitCode.UserError);
        tool.Error.Trim().ShouldStartWith("error: No system in the catalogue has all of the words 'zzzzz'");
        tool.Error.Trim().ShouldNotContain("\n");
    }

    [Fact]
    public async Task Verbose_adds_the_stack_trace()
    {
        (await Tool.RunAsync("methods", "zzzzz", "--verbose")).Error.ShouldContain("   at Espalier.");
        (await Tool.RunAsync("--verbose", "methods", "zzzzz")).Error.ShouldContain("   at Espalier.");
    }

    [Fact]
    public async Task With_json_the_error_is_an_event_too()
    {
        Tool tool = await Tool.RunAsync("methods", "zzzzz", "--json");
        tool.Events[^1].GetProperty("event").GetString().ShouldBe("error");
        tool.Events[^1].GetProperty("exitCode").GetInt32().ShouldBe(ExitCode.UserError);
        tool.Error.ShouldStartWith("error: ");
    }

    [Fact]
    public async Task A_missing_device_is_a_sentence()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["a.txt"], "some text");
        Tool tool = await Tool.RunAsync("eval", folder.Path, "--data", folder["a.txt"]);
        tool.Code.ShouldBe(ExitCode.UserError);
        tool.Error.ShouldContain("config.json");
    }

    [Fact]
    public async Task Stopping_ends_with_130()
    {
        using var folder = new TemporaryFolder();
        using var stop = new CancellationTokenSource();
        await stop.CancelAsync();
        File.WriteAllText(folder["a.txt"], string.Concat(Enumerable.Repeat("the cat sat on the mat ", 50)));
        Tool tool = await Tool.RunAsync(["tokenizer", "train", "--data", folder["a.txt"], "--out", folder["t"]], stop.Token);
        tool.Code.ShouldBe(ExitCode.Interrupted);
        tool.Error.ShouldEndWith("stopped." + Environment.NewLine);
        Directory.Exists(folder["t"]).ShouldBeFalse();
    }

    [Fact]
    public async Task Threads_are_set()
    {
        int before = torch.get_num_threads();
        (await Tool.RunAsync("doctor", "--threads", "1", "--json")).Result.ToString().ShouldContain("on 1 threads");
        torch.set_num_threads(before);
    }
}
