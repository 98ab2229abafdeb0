using System.Diagnostics;
using Espalier.Data;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>ProSparse: a penalty that rises in stages gives more zeros than ReLU alone, and costs less than the full penalty at once (card, quick reproduction).</summary>
[Reproduces("prosparse")]
public sealed class ProSparseRecipe : Recipe
{
    private const string Loss = "loss", Zeros = "activation sparsity, %", Dead = "dead neurons, %";
    private const string Silu = "SiLU, continued", Relu = "ReLU only";
    private const string StagedLow = "staged, lower", StagedHigh = "staged, higher", FixedLow = "fixed, lower", FixedHigh = "fixed, higher";
    private const string Threshold = "threshold 0.01", ThresholdLoss = "loss, threshold 0.01", ThresholdZeros = "activation sparsity, threshold 0.01, %";
    private const string Dense = "dense", Sparse = "active neurons only", Milliseconds = "milliseconds";

    /// <summary>λ_S of the lower and the higher arms: twice and eight times the default 0.2/F at F = 512.</summary>
    private const double Low = 0.0008, High = 0.0032;

    private const double Rate = 1e-3;

    private static readonly Experiment Training = new()
    {
        Name = "language model",
        About = "150 steps of 4 × 128 tokens, the same batches for every arm, AdamW at 1e-3 with a cosine; cross-entropy and zeros on held-out text. Penalties λ_S of 0.0008 and 0.0032: staged as for small models (30 steps of ReLU, then stages), or fixed from step 31.",
        Arms = [Silu, Relu, StagedLow, StagedHigh, FixedLow, FixedHigh],
        Metric = Loss,
    };

    private static readonly Experiment Kernel = new()
    {
        Name = "one token through one feed-forward part",
        About = "The sizes of a 1.1-billion Llama: D = 2,048, F = 5,632; random weights, one thread, a threshold that leaves 10 % of the neurons active; the same result within rounding.",
        Arms = [Dense, Sparse],
        Metric = Milliseconds,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "With ReLU and an L1 penalty that rises in stages, most feed-forward activations become zero at a smaller cost than under a fixed penalty; a small threshold adds zeros for nothing; inference then skips them exactly (Song et al., arXiv 2402.13516).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Training, Kernel];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        model: meta-llama/Llama-2-7b-hf
        data: { train: allenai/c4:en:train, evaluation: Salesforce/wikitext:wikitext-2-raw-v1:test }
        prune: { sparsity: 0 }
        retrain: { method: prosparse, steps: 16500, batch: 512, length: 4096, learning_rate: 3e-5 }
        seed: 0                                      # then 1 and 2
        out: ./llama-prosparse
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        int steps = smoke ? 20 : 150, warm = smoke ? 4 : 30;
        using RecipeText text = RecipeText.For(context, smoke ? 2 : 64, windowLength: 256);
        var source = new PackedTokens(text.Training, batch: 4, length: 128, new Seed(seed.For("retraining text")));
        var measured = new List<Measurement>();
        Arm(Silu, null);
        Arm(Relu, new ProSparse { Peaks = [0], Ends = [steps], SubstitutionSteps = warm });
        Arm(StagedLow, new ProSparse { Peak = Low, Stages = PenaltyStages.Small });
        Arm(StagedHigh, new ProSparse { Peak = High, Stages = PenaltyStages.Small });
        Arm(FixedLow, new ProSparse { Peaks = [Low], Ends = [steps], SubstitutionSteps = warm });
        Arm(FixedHigh, new ProSparse { Peaks = [High], Ends = [steps], SubstitutionSteps = warm });
        measured.AddRange(RunKernel(seed, smoke ? 3 : 100));
        return measured;

        void Arm(string name, ProSparse? method)
        {
            using var scope = NewDisposeScope();
            using LanguageModel model = LanguageModel.Load(text.Folder, context.Device);
            if (method is null)
            {
                RecipeTraining.OnText(model, source, steps, Rate, context);
            }
            else
            {
                Train(model, method, source, steps, seed, context);
            }

            (double loss, double zeros, double dead) = Measure(model, text.Windows);
            Add(Loss, loss);
            Add(Zeros, zeros);
            Add(Dead, dead);
            context.Progress.Say(FormattableString.Invariant($"  {name}: loss {loss:F4}, {zeros:F1} % zeros"));
            if (method is not null)
            {
                ProSparse.ApplyThreshold(model, 0.01);
                (loss, zeros, _) = Measure(model, text.Windows);
                Add(ThresholdLoss, loss);
                Add(ThresholdZeros, zeros);
            }

            void Add(string metric, double value) => measured.Add(new Measurement(Training.Name, Experiment.Only, name, metric, value));
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults measured = results.At(Training.Name);
        SettingResults kernel = results.At(Kernel.Name);
        return
        [
            Check.AtLeast("zeros of the higher staged penalty over those of ReLU alone", measured.PerSeed(m => m(StagedHigh, Zeros) - m(Relu, Zeros)), 10, "points"),
            Check.AtMost("loss of the staged penalty over that of the fixed one at equal sparsity", measured.PerSeed(AtEqualSparsity), 0, "%"),
            Check.AtLeast($"zeros that the {Threshold} adds under the higher staged penalty", measured.PerSeed(m => m(StagedHigh, ThresholdZeros) - m(StagedHigh, Zeros)), 0.01, "points", everySeed: true),
            Check.AtMost($"loss that the {Threshold} adds under the higher staged penalty", measured.PerSeed(m => 100 * ((m(StagedHigh, ThresholdLoss) / m(StagedHigh, Loss)) - 1)), 0.5, "%"),
            Check.AtLeast("one token, 90 % inactive: dense time over the time of active neurons only", kernel.PerSeed(m => m(Dense, Milliseconds) / m(Sparse, Milliseconds)), 2),
            Check.AtMost("… and the largest difference of the results, as a share of the largest of them", kernel.PerSeed(m => m(Sparse, "difference")), 1e-5, everySeed: true),
        ];
    }

    // In the middle of the sparsities that both reached, each read off the line between its two values.
    private static double AtEqualSparsity(Func<string, string, double> m)
    {
        double from = Math.Max(m(StagedLow, Zeros), m(FixedLow, Zeros)), to = Math.Min(m(StagedHigh, Zeros), m(FixedHigh, Zeros));
        double at = (from + to) / 2;
        return 100 * ((On(StagedLow, StagedHigh) / On(FixedLow, FixedHigh)) - 1);

        double On(string low, string high) =>
            m(low, Loss) + ((m(high, Loss) - m(low, Loss)) * (at - m(low, Zeros)) / (m(high, Zeros) - m(low, Zeros)));
    }

    private static void Train(LanguageModel model, ProSparse method, PackedTokens source, int steps, Seed seed, RecipeContext context)
    {
        var arm = new ProSparse
        {
            Peak = method.Peak, Peaks = method.Peaks, Ends = method.Ends, SubstitutionSteps = method.SubstitutionSteps, Stages = method.Stages,
            Steps = steps, Batch = 4, Length = 128, LearningRate = Rate, Threshold = 0,
        };
        RecipeTraining.Retrain(arm, model, source, seed, context);
    }

    private static (double Loss, double Zeros, double Dead) Measure(LanguageModel model, Tensor windows)
    {
        IReadOnlyList<ActivationTap> taps = ProSparse.Watch(model.Blocks);
        double loss = Evaluation.Perplexity.Evaluate(model, windows).LogPerplexity;
        (double, double, double) measured = (loss, 100 * taps.Average(t => t.Sparsity), 100 * taps.Select((t, i) => (double)t.DeadNeurons / model.Config.ShapeOf(i).Neurons).Average());
        foreach (ActivationTap tap in taps)
        {
            tap.Dispose();
        }

        return measured;
    }

    private static IEnumerable<Measurement> RunKernel(Seed seed, int times)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using Generator generator = seed.Generator("kernel");
        Tensor ws = randn([5632, 2048], generator: generator), w1 = randn([5632, 2048], generator: generator), w2 = randn([2048, 5632], generator: generator) / 2048, x = randn([1, 2048], generator: generator);
        double t = nn.functional.linear(x, ws).flatten().kthvalue(5069, 0, false).values.item<float>();
        using var sparse = new SparseFeedForward(ws, w1, w2, FeedForwardActivation.FatRelu, t);
        Tensor whole = ProSparse.FeedForward(x, ws, w1, w2, FeedForwardActivation.FatRelu, t).Y;
        double difference = ((sparse.Forward(x) - whole).abs().max() / whole.abs().max()).item<float>();
        int threads = get_num_threads();
        set_num_threads(1);
        try
        {
            return
            [
                new Measurement(Kernel.Name, Experiment.Only, Dense, Milliseconds, Time(() => ProSparse.FeedForward(x, ws, w1, w2, FeedForwardActivation.FatRelu, t))),
                new Measurement(Kernel.Name, Experiment.Only, Sparse, Milliseconds, Time(() => sparse.Forward(x))),
                new Measurement(Kernel.Name, Experiment.Only, Sparse, "difference", difference),
            ];
        }
        finally
        {
            set_num_threads(threads);
        }

        // The median: others use the machine too.
        double Time(Action act)
        {
            var clock = new Stopwatch();
            double[] taken = [.. Enumerable.Range(0, times).Select(_ =>
            {
                using var inner = NewDisposeScope();
                clock.Restart();
                act();
                return clock.Elapsed.TotalMilliseconds;
            })];
            return taken.Order().ElementAt(times / 2);
        }
    }
}
