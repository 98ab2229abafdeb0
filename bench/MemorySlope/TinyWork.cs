using System.Diagnostics;
using Espalier.Methods.Pruning;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.MemorySlope;

/// <summary>A tiny Llama on disk, and long work on it.</summary>
internal sealed class TinyWork : IDisposable
{
    private const string Json = """
        {"model_type":"llama","hidden_size":32,"intermediate_size":64,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
         "vocab_size":97,"max_position_embeddings":32,"rms_norm_eps":1e-5,"hidden_act":"silu","tie_word_embeddings":true,"rope_theta":10000.0}
        """;

    private readonly string _folder = Directory.CreateTempSubdirectory("espalier-memory-work-").FullName;
    private readonly PruningJob _job;

    public TinyWork()
    {
        ModelConfig config = ModelConfig.Parse(Json);
        string model = Path.Combine(_folder, "model");
        RandomCheckpoint.Write(config, model, ScalarType.Float32, new Seed(0), SilentProgress.Instance);
        Random random = new Seed(0).Random("windows");
        long[][] windows = [.. Enumerable.Range(0, 16).Select(_ => Enumerable.Range(0, 16).Select(_ => random.NextInt64(config.VocabSize)).ToArray())];
        _job = new PruningJob
        {
            Model = "tiny",
            Folder = model,
            Out = Path.Combine(_folder, "out"),
            Plan = new PruningPlan { Criterion = new Wanda(), Pattern = Pattern.Unstructured(0.5) },
            Calibration = windows[..8],
            Evaluation = windows[8..],
            MeasureSpeed = false,
            RetrainingText = (batch, _) => (step, _) => stack([.. Enumerable.Range(0, batch).Select(i => tensor(windows[(step + i) % windows.Length]))]),
        };
    }

    /// <summary>One pruning run with so many steps of PERP; a sample every hundredth part.</summary>
    public async Task<Trail> RetrainAsync(int steps)
    {
        var trail = new Trail("retraining (PERP)", "step", steps);
        long start = Stopwatch.GetTimestamp();
        PruningJob job = _job with { Plan = _job.Plan with { Retraining = new Perp { Steps = steps, Batch = 2, Length = 16, Rank = 4 } } };
        await Pruner.RunAsync(job, new Sampler(trail, Math.Max(1, steps / 100)));
        trail.Seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        return trail;
    }

    /// <summary>So many whole runs from disk to disk, the SparseGPT repair and perplexity before and after included.</summary>
    public async Task<Trail> PruneAndEvaluateAsync(int cycles)
    {
        var trail = new Trail("pruning and evaluating", "cycle", cycles);
        long start = Stopwatch.GetTimestamp();
        PruningJob job = _job with { Plan = _job.Plan with { Repair = new SparseGpt() } };
        for (int cycle = 1; cycle <= cycles; cycle++)
        {
            Directory.Delete(job.Out, recursive: true);
            await Pruner.RunAsync(job, SilentProgress.Instance);
            if (cycle % Math.Max(1, cycles / 100) == 0)
            {
                trail.Take(cycle);
            }
        }

        trail.Seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        return trail;
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private sealed class Sampler(Trail trail, int every) : IProgressSink
    {
        public IProgressTask Begin(string name, long total, string unit) => SilentProgress.Instance;

        public void Say(string message)
        {
        }

        public void Warn(string message)
        {
        }

        public void Report(string metric, long step, double value)
        {
            if (metric == "loss" && step > 0 && step % every == 0)
            {
                trail.Take(step);
            }
        }
    }
}
