using System.Buffers.Binary;
using System.Text;
using System.Text.Json;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Training;

public sealed class TrainingLogTests
{
    private static readonly TrainingOptions Options = new() { Steps = 25, LearningRate = 0.01, Schedule = "constant", LogEvery = 10, SaveEvery = 10 };

    [Fact]
    public void Log_has_a_line_every_so_many_steps_and_for_the_last()
    {
        using var net = new TinyNet();
        using var folder = new TemporaryFolder();
        var progress = new RecordingProgress();
        TrainingResult result;
        using (var loop = new TrainingLoop(Options, net.Trainable, new Counted(net)) { LogFolder = folder.Path, Progress = progress })
        {
            result = loop.Run();
        }

        JsonElement[] lines = [.. File.ReadLines(folder["training.jsonl"]).Select(line => JsonDocument.Parse(line).RootElement)];
        lines.Select(line => line.GetProperty("step").GetInt64()).ShouldBe([0, 10, 20, 24]);
        lines[1].GetProperty("loss").GetDouble().ShouldBe(result.Losses[10]);
        lines[1].GetProperty("learning_rate").GetDouble().ShouldBe(0.01);
        lines[1].GetProperty("gradient_norm").GetDouble().ShouldBeGreaterThan(0);
        lines[1].GetProperty("tokens_per_second").GetDouble().ShouldBeGreaterThan(0);
        lines[3].GetProperty("elapsed").GetDouble().ShouldBeInRange(lines[1].GetProperty("elapsed").GetDouble(), result.Seconds);
        progress.Figures.ShouldContain(("loss", 20L, result.Losses[20]));
        progress.Units.ShouldBe(25);
    }

    [Fact]
    public void TensorBoard_events_lie_beside_it_and_their_records_are_whole()
    {
        using var net = new TinyNet();
        using var folder = new TemporaryFolder();
        using (var loop = new TrainingLoop(Options, net.Trainable, net.Loss) { LogFolder = folder.Path })
        {
            loop.Run();
        }

        string file = Directory.GetFiles(folder.Path, "events.out.tfevents*").ShouldHaveSingleItem();
        List<string> records = Records(File.ReadAllBytes(file));
        records[0].ShouldContain("brain.Event:2");
        records.Count(r => r.Contains("train/loss")).ShouldBe(4);
        records.Count(r => r.Contains("train/learning_rate")).ShouldBe(4);
        records.ShouldNotContain(r => r.Contains("tokens_per_second"));
    }

    [Fact]
    public void A_resumed_run_drops_lines_of_steps_it_does_again()
    {
        using TinyNet first = new(), second = new();
        using var folder = new TemporaryFolder();
        using (var loop = new TrainingLoop(Options with { LogEvery = 1 }, first.Trainable, (k, m) => k < 17 ? first.Loss(k, m) : throw new InvalidCastException()) { LogFolder = folder.Path, StateFolder = folder.Path })
        {
            Should.Throw<InvalidCastException>(() => loop.Run());
        }

        File.AppendAllText(folder["training.jsonl"], "{\"step\": 1");
        using (var loop = new TrainingLoop(Options with { LogEvery = 1 }, second.Trainable, second.Loss) { LogFolder = folder.Path, StateFolder = folder.Path })
        {
            loop.Resume();
        }

        File.ReadLines(folder["training.jsonl"]).Select(line => JsonDocument.Parse(line).RootElement.GetProperty("step").GetInt64())
            .ShouldBe(Enumerable.Range(0, 25).Select(k => (long)k));
    }

    [Fact]
    public void A_folder_that_cannot_be_made_is_said()
    {
        using var net = new TinyNet();
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["taken"], "");
        using var loop = new TrainingLoop(Options, net.Trainable, net.Loss) { LogFolder = folder["taken"] };
        Should.Throw<EspalierException>(() => loop.Run()).Message.ShouldContain("cannot be written");
    }

    /// <summary>TFRecord: length (8 bytes), its checksum (4), data, its checksum (4).</summary>
    private static List<string> Records(byte[] bytes)
    {
        var records = new List<string>();
        int position = 0;
        while (position < bytes.Length)
        {
            int length = (int)BinaryPrimitives.ReadInt64LittleEndian(bytes.AsSpan(position));
            records.Add(Encoding.Latin1.GetString(bytes, position + 12, length));
            position += 12 + length + 4;
        }

        position.ShouldBe(bytes.Length);
        return records;
    }

    private sealed class Counted(TinyNet net) : ITrainingObjective
    {
        public long Tokens { get; private set; }

        public Tensor Loss(long step, int microBatch)
        {
            Tokens += 32;
            return net.Loss(step, microBatch);
        }
    }

    private sealed class RecordingProgress : IProgressSink, IProgressTask
    {
        public List<(string, long, double)> Figures { get; } = [];

        public long Units { get; private set; }

        public IProgressTask Begin(string name, long total, string unit) => this;

        public void Say(string message)
        {
        }

        public void Warn(string message)
        {
        }

        public void Report(string metric, long step, double value) => Figures.Add((metric, step, value));

        public void Advance(long units = 1) => Units += units;

        public void Describe(string detail)
        {
        }

        public void Dispose()
        {
        }
    }
}
