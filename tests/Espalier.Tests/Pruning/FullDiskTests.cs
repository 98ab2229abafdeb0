using System.Diagnostics;
using Espalier.Cli;
using Espalier.Models;
using Espalier.Tests.Cli;
using Espalier.Tests.Models;

namespace Espalier.Tests.Pruning;

/// <summary>Real volumes that fill up, and folders that may not be written: one sentence, a code, nothing lost. Where a test may not mount, it is skipped.</summary>
public sealed class FullDiskTests
{
    [Theory]
    [InlineData("prune")]
    [InlineData("pack")]
    [InlineData("export")]
    [InlineData("train")]
    public async Task A_volume_that_fills_up_gets_a_sentence_and_with_room_the_run_ends_as_ever(string command)
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["model"]);
        ModelConfig config = TinyModels.Config("llama", ("intermediate_size", 512), ("vocab_size", 512));
        TinyModels.Write(folder["model"], config);
        string tokenizer = Path.Combine(TestPaths.Repository, "assets", "default-model");
        await File.WriteAllTextAsync(folder["text.txt"], string.Concat(Enumerable.Repeat("a b c d e f g h i j ", 200)), CancellationToken.None);
        string[] Words(string output) => command switch
        {
            "prune" => ["prune", folder["model"], "--criterion", "magnitude", "--sparsity", "0.5", "--out", output],
            "pack" => ["pack", folder["model"], "--type", "f32", "--out", output],
            "export" => ["export", folder["model"], "--format", "onnx", "--out", Path.Combine(output, "model.onnx")],
            _ => ["train", "--config", Path.Combine(tokenizer, "config.json"), "--tokenizer", tokenizer, "--data", folder["text.txt"], "--steps", "2", "--batch", "1", "--length", "16", "--out", output],
        };
        Tool whole = await Tool.RunAsync(Words(folder["whole"]));
        whole.Code.ShouldBe(ExitCode.Success, whole.Error);
        IReadOnlyDictionary<string, string> expected = TinyCheckpoint.Weights(folder["whole"]);
        long bytes = Directory.EnumerateFiles(folder["whole"], "*", SearchOption.AllDirectories).Sum(f => new FileInfo(f).Length);

        using var volume = new SmallVolume(folder["volume"]);
        foreach (double share in (double[])[0.02, 0.3, 0.6, 0.9])
        {
            volume.Resize((long)(bytes * share));
            Tool tight = await Tool.RunAsync(Words(folder["volume/out"]));
            if (tight.Code == ExitCode.Success)
            {
                continue; // reports and states take less than was thought
            }

            tight.Code.ShouldBe(ExitCode.UserError, tight.Error);
            tight.Error.TrimEnd().Split('\n').Count(line => line.StartsWith("error", StringComparison.Ordinal)).ShouldBe(1, tight.Error);
            tight.Error.ShouldNotContain("   at ");
            foreach ((string name, string hash) in TinyCheckpoint.Weights(folder["volume/out"]))
            {
                hash.ShouldBe(expected[name], $"{name} at {share}");
            }
        }

        volume.Resize(bytes * 8);
        Tool roomy = await Tool.RunAsync(Words(folder["volume/out"]));
        roomy.Code.ShouldBe(ExitCode.Success, roomy.Error);
        TinyCheckpoint.Weights(folder["volume/out"]).ShouldBe(expected);
    }

    [Fact]
    public async Task A_read_only_volume_gets_a_sentence()
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["model"]);
        TinyModels.Write(folder["model"], TinyModels.Config("llama"));
        using var volume = new SmallVolume(folder["volume"]);
        volume.Remount("ro");
        Tool refused = await Tool.RunAsync("prune", folder["model"], "--criterion", "magnitude", "--sparsity", "0.5", "--out", folder["volume/out"]);
        refused.Code.ShouldBe(ExitCode.UserError, refused.Error);
        refused.Error.ShouldContain("volume");
        refused.Error.ShouldNotContain("   at ");
    }

    /// <summary>A tmpfs of a few kilobytes.</summary>
    private sealed class SmallVolume : IDisposable
    {
        private readonly string _path;

        public SmallVolume(string path)
        {
            _path = path;
            Directory.CreateDirectory(path);
            if (!OperatingSystem.IsLinux() || !Run("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", path))
            {
                Assert.Skip("this machine does not allow tests to mount a volume");
            }
        }

        public void Resize(long bytes) => Remount($"size={Math.Max(1, (bytes + 4095) / 4096) * 4}k");

        public void Remount(string option) => Run("mount", "-o", $"remount,{option}", _path).ShouldBeTrue();

        public void Dispose() => Run("umount", _path);

        private static bool Run(string program, params string[] words)
        {
            try
            {
                using Process process = Process.Start(new ProcessStartInfo(program, words) { RedirectStandardError = true, RedirectStandardOutput = true })!;
                process.WaitForExit();
                return process.ExitCode == 0;
            }
            catch (System.ComponentModel.Win32Exception)
            {
                return false;
            }
        }
    }
}
