using CsCheck;
using Espalier.Data;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Data;

public sealed class TextWindowsTests
{
    private static readonly Lazy<Tokenizer> bytes = new(() =>
    {
        using var folder = new TemporaryFolder();
        return BpeTrainer.Train(["x"], new BpeTrainerOptions { VocabularySize = 259 }).Save(folder.Path);
    });

    [Fact]
    public void The_perplexity_protocol_joins_all_lines_by_two_newlines_and_drops_the_rest()
    {
        long[] tokens = [.. bytes.Value.Encode("ab\n\n\n\nc").Select(id => (long)id)];
        TextWindows.Consecutive(TextDataset.FromDocuments(["ab", "", "c"]), bytes.Value, 3).ShouldBe([tokens[..3], tokens[3..6]]);
    }

    [Fact]
    public void Calibration_windows_lie_within_documents_and_the_seed_fixes_them()
    {
        string[] documents = ["short", new string('a', 30) + new string('b', 30), new string('c', 50)];
        TextDataset dataset = TextDataset.FromDocuments(documents);
        var progress = new RecordingProgress();
        long[][] windows = TextWindows.Random(dataset, bytes.Value, 40, 20, new Seed(3), progress);
        windows.Length.ShouldBe(40);
        windows.ShouldAllBe(w => w.Length == 20);
        string[] texts = [.. windows.Select(w => bytes.Value.Decode(w.Select(id => (int)id)))];
        texts.ShouldAllBe(t => documents.Any(d => d.Contains(t)));
        texts.Distinct().Count().ShouldBeGreaterThan(5);
        progress.Warnings.ShouldBeEmpty();
        TextWindows.Random(dataset, bytes.Value, 40, 20, new Seed(3), progress).ShouldBe(windows);
        TextWindows.Random(dataset, bytes.Value, 40, 20, new Seed(4), progress).ShouldNotBe(windows);
    }

    [Fact]
    public void Documents_that_are_all_too_short_are_joined_and_said_so()
    {
        var progress = new RecordingProgress();
        long[][] windows = TextWindows.Random(TextDataset.FromDocuments(["one", "two", "three"]), bytes.Value, 4, 8, new Seed(0), progress);
        windows.ShouldAllBe(w => "one\n\ntwo\n\nthree".Contains(bytes.Value.Decode(w.Select(id => (int)id))));
        progress.Warnings.Count.ShouldBe(1);
        Should.Throw<EspalierException>(() => TextWindows.Random(TextDataset.FromDocuments(["a"]), bytes.Value, 1, 8, new Seed(0), progress)).Message.ShouldContain("1 tokens");
    }

    [Fact]
    public void A_batch_is_a_function_of_seed_and_step()
    {
        int[] stream = [.. Enumerable.Range(0, 1000)];
        var first = new PackedTokens(stream, 4, 16, new Seed(1));
        var second = new PackedTokens(stream, 4, 16, new Seed(1));
        long[][] forwards = [.. Enumerable.Range(0, 60).Select(k => Ids(first, k))];
        long[][] backwards = [.. Enumerable.Range(0, 60).Reverse().Select(k => Ids(second, k)).Reverse()];
        backwards.ShouldBe(forwards);
        Ids(new PackedTokens(stream, 4, 16, new Seed(2)), 0).ShouldNotBe(forwards[0]);
    }

    [Fact]
    public void An_epoch_shows_every_window_once() =>
        Gen.Select(Gen.Int[40, 400], Gen.Int[1, 5], Gen.Int[2, 16], Gen.Long[0, 50]).Sample((size, batch, length, seed) =>
        {
            var packed = new PackedTokens([.. Enumerable.Range(0, size)], batch, length, new Seed(seed));
            long[] all = [.. Enumerable.Range(0, (packed.WindowsPerEpoch / batch) + 1).SelectMany(k => Ids(packed, k)).Take(packed.WindowsPerEpoch * length)];
            all.Distinct().Count().ShouldBe(packed.WindowsPerEpoch * length);
            all.Chunk(length).ShouldAllBe(w => w.SequenceEqual(Enumerable.Range((int)w[0], length).Select(i => (long)i)));
            (size - all.Length).ShouldBeLessThan(2 * length);
        }, iter: 100);

    [Fact]
    public void Sizes_that_make_no_sense_are_refused()
    {
        Should.Throw<EspalierException>(() => new PackedTokens([1, 2, 3, 4], 0, 2, new Seed(0)));
        Should.Throw<EspalierException>(() => new PackedTokens([1, 2], 1, 3, new Seed(0))).Message.ShouldContain("2 tokens");
        Should.Throw<EspalierException>(() => TextWindows.Consecutive(TextDataset.FromDocuments(["a"]), bytes.Value, 8)).Message.ShouldContain("1 tokens");
    }

    private static long[] Ids(PackedTokens packed, long step)
    {
        using Tensor batch = packed.Batch(step);
        return batch.data<long>().ToArray();
    }

    private sealed class RecordingProgress : IProgressSink
    {
        public List<string> Warnings { get; } = [];

        public IProgressTask Begin(string name, long total, string unit) => SilentProgress.Instance;

        public void Say(string message)
        {
        }

        public void Warn(string message) => Warnings.Add(message);

        public void Report(string metric, long step, double value)
        {
        }
    }
}
