using Espalier.Cli;

namespace Espalier.Tests.Cli;

/// <summary>
/// Files that vanish, or are cut short, while a run reads them: either the run had them already and ends as ever, or it ends with one sentence,
/// code 2, and no file of other bytes; with the file back the same words end as ever.
/// </summary>
public sealed class VanishingFileTests(TinyCheckpoint tiny) : IClassFixture<TinyCheckpoint>
{
    private const string Shard = "model/model-00002-of-00002.safetensors";

    [Theory]
    [InlineData("prune", Shard, true)]
    [InlineData("prune", Shard, false)]
    [InlineData("prune", "model/model.safetensors.index.json", false)]
    [InlineData("prune", "model/config.json", false)]
    [InlineData("prune", "model/tokenizer.json", false)]
    [InlineData("prune", "model/tokenizer.json", true)]
    [InlineData("prune", "text.txt", false)]
    [InlineData("train", "text.txt", false)]
    [InlineData("adapt", Shard, true)]
    [InlineData("unpack", "packed/model.safetensors", false)]
    [InlineData("unpack", "packed/model.safetensors", true)]
    [InlineData("eval", "packed/model.safetensors", true)]
    [InlineData("eval", "packed/model.safetensors", false)]
    public async Task A_file_that_goes_away_in_the_middle_gets_a_sentence_or_is_not_missed(string command, string file, bool cut)
    {
        using var folder = new TemporaryFolder();
        tiny.CopySharded(folder);
        if (file.StartsWith("packed", StringComparison.Ordinal))
        {
            (await Tool.RunAsync("pack", folder["model"], "--type", "f32", "--out", folder["packed"])).Code.ShouldBe(ExitCode.Success);
        }

        byte[] content = File.ReadAllBytes(folder[file]);
        int events = 0;
        Tool whole = await EventWriter.RunAsync(Words(command, folder, "whole"), (count, _) => events = count);
        whole.Code.ShouldBe(ExitCode.Success, whole.Error);
        IReadOnlyDictionary<string, string> expected = TinyCheckpoint.Weights(folder["whole"]);

        foreach (int at in new[] { 1, events / 4, events / 2 }.Distinct())
        {
            string output = $"out{at}";
            Tool tool = await EventWriter.RunAsync(Words(command, folder, output), (count, _) =>
            {
                if (count == at)
                {
                    GoAway();
                }
            });
            if (tool.Code == ExitCode.Success)
            {
                TinyCheckpoint.Weights(folder[output]).ShouldBe(expected, ignoreOrder: true, $"at event {at}");
            }
            else
            {
                tool.Code.ShouldBe(ExitCode.UserError, $"at event {at}: {tool.Error}");
                tool.Error.TrimEnd().Split('\n').Count(line => line.StartsWith("error", StringComparison.Ordinal)).ShouldBe(1, tool.Error);
                tool.Error.ShouldNotContain("   at ");
                foreach ((string name, string hash) in TinyCheckpoint.Weights(folder[output]))
                {
                    hash.ShouldBe(expected[name], $"{name} at event {at}");
                }
            }

            File.WriteAllBytes(folder[file], content);
            Tool again = await Tool.RunAsync([.. Words(command, folder, output), .. Directory.Exists(folder[output + "/training-state"]) ? (string[])["--resume"] : []]);
            again.Code.ShouldBe(ExitCode.Success, again.Error);
            TinyCheckpoint.Weights(folder[output]).ShouldBe(expected, ignoreOrder: true, $"again after event {at}");
        }

        void GoAway()
        {
            if (cut)
            {
                using FileStream stream = File.OpenWrite(folder[file]);
                stream.SetLength(content.Length / 3);
            }
            else
            {
                File.Delete(folder[file]);
            }
        }
    }

    private static string[] Words(string command, TemporaryFolder folder, string output)
    {
        string[] training = ["--data", folder["text.txt"], "--steps", "3", "--batch", "1", "--length", "16", "--out", folder[output]];
        return command switch
        {
            "prune" => ["prune", folder["model"], "--criterion", "wanda", "--sparsity", "0.5", "--calibration", folder["text.txt"], "--samples", "2", "--length", "16", "--out", folder[output]],
            "train" => ["train", "--config", folder["model"], .. training],
            "adapt" => ["adapt", folder["model"], "--rank", "2", .. training],
            "unpack" => ["unpack", folder["packed"], "--out", folder[output]],
            _ => ["eval", folder["packed"], "--data", folder["text.txt"], "--windows", "2", "--context", "16"],
        };
    }
}
