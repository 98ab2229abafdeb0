using Espalier.Methods.Pruning;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>SparseGPT: kept weights that absorb the error of the pruned ones save most of it (card, quick reproduction).</summary>
[Reproduces("sparsegpt")]
public sealed class SparseGptRecipe : Recipe
{
    private const string MagnitudeArm = "magnitude", WandaArm = "wanda", SweepArm = "sparsegpt";
    private const string OutputError = "output error", Accuracy = "accuracy, %";
    private const string Median = "layer error over Wanda's, median", Worst = "layer error over Wanda's, worst layer";

    private static readonly Experiment Synthetic = new()
    {
        Name = "one layer with correlated inputs",
        About = "W = 0.1·N(0, 1) [48, 64]; 2,000 inputs of which 12 directions carry most, their means 0 or 3 standard normals from 0. The output error is the mean square against the dense layer.",
        Arms = [WandaArm, SweepArm],
        Settings = ["50 %, means 0", "50 %, means 3", "70 %, means 0", "70 %, means 3"],
        Metric = OutputError,
    };

    private static readonly Experiment Language = new()
    {
        Name = "language model",
        About = "One-shot, 32 calibration windows of 256 tokens, block after block; perplexity on 64 held-out windows of 256 tokens. The layer error is ‖X(W−W′)ᵀ‖²/‖XWᵀ‖² on the calibration inputs that reach the layer.",
        Arms = [ModelBench.DenseArm, MagnitudeArm, WandaArm, SweepArm],
        Settings = ["50 %", "70 %", "80 %", "2:4"],
        Metric = ModelBench.PerplexityMetric,
    };

    private static readonly Experiment Digits = new()
    {
        Name = "classifier",
        About = "Ten digits drawn on 8×8 pixels (turned, stretched, shifted, faded, noisy; as hard as scikit-learn's digits, which are not at hand: row-wise magnitude keeps about 88 % at 80 % on both); a ReLU network 64-256-256-128-10 trained on 1,000 of them (AdamW, 400 steps of 64) and tested on 800; pruned one layer after the other on 128 training images, without retraining. Magnitude and Wanda rank within rows.",
        Arms = [ModelBench.DenseArm, MagnitudeArm, WandaArm, SweepArm],
        Settings = ["80 %", "90 %"],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Pruning column by column while the remaining weights absorb the error, by the inverse Hessian of the layer's inputs, loses far less than a mask alone, above all at high sparsity and at 2:4 (Frantar, Alistarh, arXiv 2301.00774).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Synthetic, Language, Digits];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        model: meta-llama/Llama-2-7b-hf
        data: { calibration: allenai/c4:en:train, samples: 128, evaluation: Salesforce/wikitext:wikitext-2-raw-v1:test }
        prune: { criterion: sparsegpt, pattern: "2:4" }   # also sparsity 0.7; criterion wanda and magnitude
        seed: 0                                           # then 1 and 2
        out: ./llama-sparsegpt-2-of-4
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using ModelBench bench = ModelBench.Open(context, seed);
        return [.. RunSynthetic(seed), .. RunLanguage(bench), .. RunDigits(context, seed)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        return
        [
            .. Synthetic.Settings.Select(s => Check.AtMost($"one layer, {s}: output error over Wanda's", results.At(Synthetic.Name, s).Ratio(OutputError, SweepArm, WandaArm), 0.6, everySeed: true)),
            .. from s in new[] { "50 %", "70 %" } select Check.AtMost($"language model, {s}: layer error over Wanda's, median layer", Of(s, Median), 0.7),
            .. from s in new[] { "50 %", "70 %" } select Check.AtMost($"language model, {s}: layer error over Wanda's, worst layer", Of(s, Worst), 1, everySeed: true),
            .. from s in new[] { "70 %", "80 %" } select Check.AtMost($"language model, {s}: rise of log-perplexity over Wanda's", results.At(Language.Name, s).Ratio(ModelBench.Rise, SweepArm, WandaArm), 0.8),
            Check.AtMost("language model, 2:4: rise of log-perplexity over magnitude's", results.At(Language.Name, "2:4").Ratio(ModelBench.Rise, SweepArm, MagnitudeArm), 1),
            Check.AtLeast("classifier, 80 %: accuracy", results.At(Digits.Name, "80 %").Values(SweepArm, Accuracy), 90, "%"),
        ];

        IReadOnlyList<double> Of(string setting, string metric) => results.At(Language.Name, setting).Values(SweepArm, metric);
    }

    private static List<Measurement> RunSynthetic(Seed seed)
    {
        var measured = new List<Measurement>();
        foreach (string setting in Synthetic.Settings)
        {
            string[] parts = setting.Split(", means ");
            Pattern pattern = ModelBench.PatternOf(parts[0]);
            using SyntheticLayer layer = SyntheticLayer.Correlated(seed, parts[1] == "3" ? 3 : 0);
            layer.Use(CalibrationNeeds.InputNorms | CalibrationNeeds.Hessian, context =>
            {
                foreach (string arm in Synthetic.Arms)
                {
                    measured.Add(new Measurement(Synthetic.Name, setting, arm, OutputError, layer.OutputError(Prune(arm, context, pattern))));
                }
            });
        }

        return measured;
    }

    private static IReadOnlyList<Measurement> RunLanguage(ModelBench bench)
    {
        var wanda = new Dictionary<string, IReadOnlyList<LayerReport>>();
        return bench.Compare(Language, (arm, setting) => PlanOf(arm, ModelBench.PatternOf(setting)), (arm, setting, pruned) =>
        {
            if (arm == WandaArm)
            {
                wanda[setting] = [.. pruned.Layers];
            }

            if (arm != SweepArm)
            {
                return [];
            }

            double[] ratios = [.. pruned.Layers.Zip(wanda[setting], (s, w) => s.RepairedError!.Value / w.RepairedError!.Value).Order()];
            return [(Median, ratios[ratios.Length / 2]), (Worst, ratios[^1])];
        });
    }

    private static List<Measurement> RunDigits(RecipeContext context, Seed seed)
    {
        using DigitClassifier classifier = DigitClassifier.Train(seed, context.Size is RecipeSize.Smoke ? 20 : 400, context.Cancellation);
        var measured = new List<Measurement>();
        foreach (string setting in Digits.Settings)
        {
            Pattern pattern = ModelBench.PatternOf(setting);
            foreach (string arm in Digits.Arms)
            {
                double accuracy = arm == ModelBench.DenseArm
                    ? classifier.Accuracy()
                    : classifier.AccuracyPruned(CalibrationNeeds.InputNorms | CalibrationNeeds.Hessian, layer => Prune(arm, layer, pattern));
                measured.Add(new Measurement(Digits.Name, setting, arm, Accuracy, accuracy));
            }

            context.Progress.Say($"  classifier, {setting}: {string.Join(", ", measured.TakeLast(Digits.Arms.Count).Select(m => FormattableString.Invariant($"{m.Arm} {m.Value:F1} %")))}");
        }

        return measured;
    }

    // Wanda also collects the Hessian, so that its layers' errors are known.
    private static PruningPlan PlanOf(string arm, Pattern pattern)
    {
        var sweep = new SparseGpt();
        return arm switch
        {
            MagnitudeArm => new PruningPlan { Criterion = new Magnitude(), Pattern = pattern },
            WandaArm => new PruningPlan { Criterion = new Wanda(), Pattern = pattern, AlsoCollect = CalibrationNeeds.Hessian },
            _ => new PruningPlan { Criterion = sweep, Repair = sweep, Pattern = pattern },
        };
    }

    private static Tensor Prune(string arm, LayerContext layer, Pattern pattern)
    {
        PruningPlan plan = PlanOf(arm, pattern);
        return plan.IsJoint
            ? ((IJointPruner)plan.Criterion).Prune(layer, pattern, pattern.Sparsity).Weight
            : MaskSelection.Apply(layer.Weight, MaskSelection.Choose(plan.Criterion, layer, pattern, Scope.Row, pattern.Sparsity));
    }
}
