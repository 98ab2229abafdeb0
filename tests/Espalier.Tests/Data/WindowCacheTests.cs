using Espalier.Data;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Tests.Pruning;

namespace Espalier.Tests.Data;

public sealed class WindowCacheTests
{
    [Fact]
    public void Windows_are_drawn_once_and_come_back_as_they_were_with_their_warnings()
    {
        using var files = new ComparisonFiles();
        var cache = new WindowCache(files["cache"]);
        var warned = new List<string>();
        int draws = 0;
        Get("draw").ShouldBe([[1, 2, 70_000], [4, 5, 6]]);
        Get("draw").ShouldBe([[1, 2, 70_000], [4, 5, 6]]);
        draws.ShouldBe(1);
        warned.ShouldBe(["short", "short"]);
        Get("another draw");
        draws.ShouldBe(2);
        File.SetLastWriteTimeUtc(files["text.jsonl"], DateTime.UtcNow.AddHours(-1));
        Get("draw");
        draws.ShouldBe(3);

        long[][] Get(string draw) => cache.Get(TextDataset.Open(DataReference.Parse(files["text.jsonl"])), draw, new Warned(warned), sink =>
        {
            draws++;
            sink.Warn("short");
            return [[1, 2, 70_000], [4, 5, 6]];
        });
    }

    [Fact]
    public void A_damaged_or_foreign_file_is_drawn_anew_and_replaced()
    {
        using var files = new ComparisonFiles();
        var cache = new WindowCache(files["cache"]);
        TextDataset text = TextDataset.Open(DataReference.Parse(files["text.jsonl"]));
        int draws = 0;
        Get();
        string path = Directory.GetFiles(files["cache"]).ShouldHaveSingleItem();
        byte[] sound = File.ReadAllBytes(path), flipped = [.. sound];
        flipped[^1] ^= 1;
        foreach (byte[] damaged in new[] { flipped, sound[..^1], [], "not ours at all"u8.ToArray() })
        {
            File.WriteAllBytes(path, damaged);
            int before = draws;
            Get().ShouldBe([[1, 2], [3, 4]]);
            draws.ShouldBe(before + 1);
            File.ReadAllBytes(path).ShouldBe(sound);
        }

        long[][] Get() => cache.Get(text, "draw", SilentProgress.Instance, _ =>
        {
            draws++;
            return [[1, 2], [3, 4]];
        });
    }

    [Fact]
    public void A_folder_that_cannot_be_written_costs_a_warning()
    {
        using var files = new ComparisonFiles();
        var warned = new List<string>();
        new WindowCache(Path.Combine(files["text.jsonl"], "cache")).Get(TextDataset.Open(DataReference.Parse(files["text.jsonl"])), "draw", new Warned(warned), _ => [[1, 2]]).ShouldBe([[1, 2]]);
        warned.ShouldHaveSingleItem().ShouldContain("ESPALIER_CACHE");
    }

    [Fact]
    public void A_job_has_the_same_windows_with_and_without_and_another_tokeniser_has_its_own()
    {
        using var files = new ComparisonFiles();
        var data = new DataSection { Calibration = files["text.jsonl"], Evaluation = files["text.jsonl"], Samples = 3, Length = 16, Windows = 2, Context = 16 };
        ModelConfig config = ModelConfig.Load(files["model"]);
        PruneTexts Texts(string? folder) => new(SilentProgress.Instance, cache: new WindowCache(folder));
        foreach (PruneTexts texts in new[] { Texts(files["cache"]), Texts(files["cache"]) })
        {
            texts.Calibration(data, files["model"], config, new Seed(1)).ShouldBe(Texts(null).Calibration(data, files["model"], config, new Seed(1)));
            texts.Evaluation(data, files["model"], config).ShouldBe(Texts(null).Evaluation(data, files["model"], config));
        }

        Directory.GetFiles(files["cache"]).Length.ShouldBe(2);
        Texts(files["cache"]).Calibration(data, files["model"], config, new Seed(2));
        File.AppendAllText(Path.Combine(files["model"], "tokenizer.json"), "\n");
        Texts(files["cache"]).Evaluation(data, files["model"], config);
        Directory.GetFiles(files["cache"]).Length.ShouldBe(4);
    }

    [Theory]
    [InlineData("/a", "/b", "/a/windows")]
    [InlineData(null, "/b", "/b/espalier/windows")]
    [InlineData("none", "/b", null)]
    public void The_folder_is_where_the_environment_says(string? own, string? shared, string? expected) =>
        WindowCache.From(name => name == "ESPALIER_CACHE" ? own : name == "XDG_CACHE_HOME" ? shared : null).Folder.ShouldBe(expected);

    private sealed class Warned(List<string> warnings) : IProgressSink
    {
        public IProgressTask Begin(string name, long total, string unit) => SilentProgress.Instance;

        public void Say(string message)
        {
        }

        public void Warn(string message) => warnings.Add(message);

        public void Report(string metric, long step, double value)
        {
        }
    }
}
