using Espalier.Cli;
using static TorchSharp.torch;

namespace Espalier.Tests.Cli;

/// <summary>The same words and the same seed give the same bytes, also through a stop; another seed gives others.</summary>
public sealed class DeterminismTests(TinyCheckpoint tiny) : IClassFixture<TinyCheckpoint>
{
    public static TheoryData<string> Commands => ["prune", "structured", "train", "sparse training", "low-rank state", "adapt"];

    [Theory]
    [MemberData(nameof(Commands))]
    public async Task The_same_words_twice_give_the_same_bytes_and_another_seed_others(string command)
    {
        using var folder = new TemporaryFolder();
        IReadOnlyDictionary<string, string> first = await WholeAsync(folder["first"], 3);
        manual_seed(99); // what else happened in the process must not matter
        rand(17).Dispose();
        (await WholeAsync(folder["second"], 3)).ShouldBe(first, ignoreOrder: true);
        (await WholeAsync(folder["other"], 4)).OrderBy(w => w.Key).SequenceEqual(first.OrderBy(w => w.Key)).ShouldBeFalse("the seed changes nothing");

        async Task<IReadOnlyDictionary<string, string>> WholeAsync(string output, int seed)
        {
            Tool tool = await Tool.RunAsync(Words(command, output, seed));
            tool.Code.ShouldBe(ExitCode.Success, tool.Error);
            IReadOnlyDictionary<string, string> weights = TinyCheckpoint.Weights(output);
            weights.ShouldNotBeEmpty();
            return weights;
        }
    }

    [Theory]
    [MemberData(nameof(Commands))]
    public async Task Stopped_in_the_middle_it_goes_on_to_the_same_bytes(string command)
    {
        using var folder = new TemporaryFolder();
        (await Tool.RunAsync(Words(command, folder["whole"], 3))).Code.ShouldBe(ExitCode.Success);

        string[] words = Words(command, folder["parts"], 3);
        using var stop = new CancellationTokenSource();
        bool training = false;
        Tool stopped = await EventWriter.RunAsync(words, (_, line) =>
        {
            if (line.Contains("\"metric\":\"loss\"", StringComparison.Ordinal) && line.Contains("\"step\":10,", StringComparison.Ordinal))
            {
                training = true;
                stop.Cancel();
            }
        }, stop.Token);
        training.ShouldBeTrue(stopped.Output);
        stopped.Code.ShouldBe(ExitCode.Interrupted, stopped.Error);
        TinyCheckpoint.Weights(folder["parts"]).ShouldBeEmpty();

        manual_seed(99);
        Tool resumed = await Tool.RunAsync(words[0] == "prune" ? words : [.. words, "--resume"]);
        resumed.Code.ShouldBe(ExitCode.Success, resumed.Error);
        TinyCheckpoint.Weights(folder["parts"]).ShouldBe(TinyCheckpoint.Weights(folder["whole"]), ignoreOrder: true);
    }

    private string[] Words(string command, string output, int seed)
    {
        string[] calibration = ["--calibration", tiny.Text, "--samples", "4", "--length", "16"];
        string[] retraining = ["--retrain", "perp", "--train-data", tiny.Text, "--steps", "14", "--batch", "2", "--train-length", "16", "--rank", "2"];
        string[] training = ["--data", tiny.Text, "--steps", "14", "--batch", "2", "--length", "16", "--lr", "1e-3", "--save-every", "2"];
        string[] scratch = ["train", "--config", Path.Combine(tiny.Model, "config.json"), "--tokenizer", tiny.Model, .. training];
        string[] words = command switch
        {
            "prune" => ["prune", tiny.Model, "--criterion", "sparsegpt", "--repair", "sparsegpt", "--sparsity", "0.5", .. calibration, .. retraining],
            "structured" => ["prune", tiny.Model, "--criterion", "flap", "--repair", "flap", "--pattern", "structured", "--sparsity", "0.3", .. calibration, .. retraining],
            "train" => scratch,
            "sparse training" => [.. scratch, "--sparse-training", "granet", "--set", "sparsity=0.5", "--set", "update_every=2"],
            "low-rank state" => [.. scratch, "--optimizer", "galore", "--optimizer-set", "rank=4"],
            _ => ["adapt", tiny.Model, "--rank", "2", .. training],
        };
        return [.. words, "--seed", $"{seed}", "--out", output];
    }
}
