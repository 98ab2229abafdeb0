using System.Text;
using System.Text.Json;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>One line of a training log.</summary>
/// <param name="Step">The step, from 0.</param>
/// <param name="Loss">Its loss.</param>
/// <param name="LearningRate">Its learning rate.</param>
/// <param name="GradientNorm">The global L2 norm of its gradients before clipping.</param>
/// <param name="TokensPerSecond">The throughput since the line before; null where the objective counts no tokens.</param>
/// <param name="Elapsed">Seconds in training so far.</param>
public sealed record TrainingLogLine(long Step, double Loss, double LearningRate, double GradientNorm, double? TokensPerSecond, double Elapsed);

/// <summary>Writes what happens in a run: JSON lines for programs, TensorBoard event files beside them for people.</summary>
internal sealed class TrainingLog : IDisposable
{
    /// <summary>The name of the JSON-lines file in the log folder.</summary>
    public const string FileName = "training.jsonl";

    private static readonly JsonSerializerOptions Json = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };

    private readonly StreamWriter _lines;
    private readonly SummaryWriter _board;

    /// <summary>Opens the log of a run; lines of steps from <paramref name="fromStep"/> on, left by a run that was cut off, are dropped.</summary>
    public TrainingLog(string folder, long fromStep)
    {
        try
        {
            Directory.CreateDirectory(folder);
            string path = Path.Combine(folder, FileName);
            IReadOnlyList<string> kept = fromStep > 0 && File.Exists(path) ? [.. File.ReadLines(path).Where(line => IsBefore(line, fromStep))] : [];
            _lines = new StreamWriter(path, append: false, new UTF8Encoding(false)) { AutoFlush = true, NewLine = "\n" };
            foreach (string line in kept)
            {
                _lines.WriteLine(line);
            }
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            throw new EspalierException($"The training log cannot be written to {folder} ({fault.Message}); choose a folder that can be written.", fault);
        }

        _board = utils.tensorboard.SummaryWriter(folder);
    }

    /// <summary>Writes one line to both.</summary>
    public void Write(TrainingLogLine line)
    {
        _lines.WriteLine(JsonSerializer.Serialize(line, Json));
        int step = (int)Math.Min(line.Step, int.MaxValue);
        _board.add_scalar("train/loss", (float)line.Loss, step);
        _board.add_scalar("train/learning_rate", (float)line.LearningRate, step);
        _board.add_scalar("train/gradient_norm", (float)line.GradientNorm, step);
        if (line.TokensPerSecond is { } rate)
        {
            _board.add_scalar("train/tokens_per_second", (float)rate, step);
        }
    }

    public void Dispose() => _lines.Dispose();

    private static bool IsBefore(string line, long step)
    {
        try
        {
            return JsonSerializer.Deserialize<TrainingLogLine>(line, Json) is { } read && read.Step < step;
        }
        catch (JsonException)
        {
            // The last line of a run that was killed while writing it.
            return false;
        }
    }
}
