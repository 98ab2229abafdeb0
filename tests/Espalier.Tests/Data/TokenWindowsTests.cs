using CsCheck;
using Espalier.Data;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Data;

public sealed class TokenWindowsTests
{
    private static readonly Lazy<Tokenizer> bytes = new(() =>
    {
        using var folder = new TemporaryFolder();
        return BpeTrainer.Train(["x"], new BpeTrainerOptions { VocabularySize = 259 }).Save(folder.Path);
    });

    [Fact]
    public void The_perplexity_protocol_joins_all_lines_by_two_newlines_and_drops_the_rest()
    {
        int[] tokens = TokenWindows.FromJoinedText(["ab", "", "c"], bytes.Value);
        tokens.ShouldBe(bytes.Value.Encode("ab\n\n\n\nc"));
        using Tensor windows = TokenWindows.NonOverlapping(tokens, 3);
        windows.shape.ShouldBe([2, 3]);
        windows.data<long>().ToArray().ShouldBe(tokens[..6].Select(t => (long)t));
    }

    [Fact]
    public void Wikitext_gives_as_many_windows_as_whole_contexts_fit()
    {
        Tokenizer tokenizer = Tokenizer.Load(TestPaths.RequireShared("hub/models--espalier--imdb-llama-2.8m/snapshots/local"));
        TextDataset test = TextDataset.Open(DataReference.Parse("Salesforce/wikitext:wikitext-2-v1:test"), HubFixture.Resolve);
        int[] tokens = TokenWindows.FromJoinedText(test.Documents, tokenizer);
        using Tensor windows = TokenWindows.NonOverlapping(tokens, 256);
        windows.shape.ShouldBe([tokens.Length / 256, 256]);
        using Tensor few = TokenWindows.NonOverlapping(tokens, 256, maximum: 5);
        few.shape.ShouldBe([5, 256]);
    }

    [Fact]
    public void Documents_are_bounded_by_beginning_and_end()
    {
        int a = bytes.Value.IdOf("a")!.Value, b = bytes.Value.IdOf("b")!.Value;
        TokenWindows.FromDocuments(["a", "", "b"], bytes.Value).ShouldBe([1, a, 2, 1, b, 2]);
        TokenWindows.FromDocuments(["a", "b"], bytes.Value, DocumentBoundary.End).ShouldBe([a, 2, b, 2]);
        TokenWindows.FromDocuments(["a", "b"], bytes.Value, DocumentBoundary.None).ShouldBe([a, b]);
    }

    [Fact]
    public void Too_little_text_is_refused() => Should.Throw<EspalierException>(() => TokenWindows.NonOverlapping([1, 2], 3)).Message.ShouldContain("2 tokens");

    [Fact]
    public void Calibration_windows_lie_within_documents_and_the_seed_fixes_them()
    {
        string[] documents = ["short", new string('a', 30) + new string('b', 30), new string('c', 50)];
        TextDataset dataset = TextDataset.FromDocuments(documents);
        var progress = new RecordingProgress();
        using Tensor windows = CalibrationSampler.Sample(dataset, bytes.Value, 40, 20, new Seed(3), progress);
        windows.shape.ShouldBe([40, 20]);
        windows.dtype.ShouldBe(ScalarType.Int64);
        string[] texts = [.. windows.data<long>().ToArray().Select(id => (int)id).Chunk(20).Select(ids => bytes.Value.Decode(ids))];
        texts.ShouldAllBe(t => documents.Any(d => d.Contains(t)));
        texts.Distinct().Count().ShouldBeGreaterThan(5);
        progress.Warnings.ShouldBeEmpty();
        using Tensor again = CalibrationSampler.Sample(dataset, bytes.Value, 40, 20, new Seed(3));
        using Tensor other = CalibrationSampler.Sample(dataset, bytes.Value, 40, 20, new Seed(4));
        again.eq(windows).all().item<bool>().ShouldBeTrue();
        other.eq(windows).all().item<bool>().ShouldBeFalse();
    }

    [Fact]
    public void Documents_that_are_all_too_short_are_joined_and_said_so()
    {
        var progress = new RecordingProgress();
        using Tensor windows = CalibrationSampler.Sample(TextDataset.FromDocuments(["one", "two", "three"]), bytes.Value, 4, 8, new Seed(0), progress);
        windows.data<long>().ToArray().Select(id => (int)id).Chunk(8).ShouldAllBe(ids => "one two three".Contains(bytes.Value.Decode(ids)));
        progress.Warnings.Single().ShouldContain("joined");
        Should.Throw<EspalierException>(() => CalibrationSampler.Sample(TextDataset.FromDocuments(["a"]), bytes.Value, 1, 8, new Seed(0))).Message.ShouldContain("1 tokens");
    }

    [Fact]
    public void A_batch_is_a_function_of_seed_and_step()
    {
        int[] stream = [.. Enumerable.Range(0, 1000)];
        var first = new PackedTokens(stream, 4, 16, new Seed(1));
        var second = new PackedTokens(stream, 4, 16, new Seed(1));
        long[] forwards = [.. Enumerable.Range(0, 60).SelectMany(k => Ids(first, k))];
        long[] backwards = [.. Enumerable.Range(0, 60).Reverse().SelectMany(k => Ids(second, k).Chunk(64).SelectMany(x => x.Reverse())).Reverse()];
        backwards.ShouldBe(forwards);
        Ids(new PackedTokens(stream, 4, 16, new Seed(2)), 0).ShouldNotBe(Ids(first, 0));
    }

    [Fact]
    public void An_epoch_shows_every_window_once_and_the_next_cuts_elsewhere() =>
        Gen.Select(Gen.Int[40, 400], Gen.Int[1, 5], Gen.Int[2, 16], Gen.Long[0, 50]).Sample((size, batch, length, seed) =>
        {
            var packed = new PackedTokens([.. Enumerable.Range(0, size)], batch, length, new Seed(seed));
            int windows = packed.WindowsPerEpoch;
            long[] all = [.. Enumerable.Range(0, (windows / batch) + 1).SelectMany(k => Ids(packed, k)).Take(windows * length)];
            all.Distinct().Count().ShouldBe(windows * length);
            all.Chunk(length).ShouldAllBe(w => w.SequenceEqual(Enumerable.Range((int)w[0], length).Select(i => (long)i)));
            (size - all.Length).ShouldBeLessThan(2 * length);
        }, iter: 100);

    [Fact]
    public void Sizes_that_make_no_sense_are_refused()
    {
        Should.Throw<EspalierException>(() => new PackedTokens([1, 2, 3, 4], 0, 2, new Seed(0)));
        Should.Throw<EspalierException>(() => new PackedTokens([1, 2], 1, 3, new Seed(0))).Message.ShouldContain("2 tokens");
        Should.Throw<EspalierException>(() => CalibrationSampler.Sample(TextDataset.FromDocuments(["a"]), bytes.Value, 0, 8, new Seed(0)));
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
