using Espalier.Methods.Pruning;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>DSnoT: a few swaps per row mend the mean of the outputs, without gradients (card, quick reproduction).</summary>
[Reproduces("dsnot")]
public sealed class DSnoTRecipe : Recipe
{
    private const string WandaArm = "wanda", MagnitudeArm = "magnitude, rows", Refined = " + dsnot", AttentionOnly = ", attention only";
    private const string OutputError = "output error", RowErrorBefore = "row error before", RowErrorAfter = "row error after";

    private static readonly Experiment Synthetic = new()
    {
        Name = "one layer with correlated inputs",
        About = "W = 0.1·N(0, 1) [48, 64]; 2,000 inputs of which 12 directions carry most, their means 0 or 3 standard normals from 0, as sequences of 100 tokens; up to 50 swaps a row, same sign required. The output error is the mean square against the dense layer; the row error is what a row's output is expected to miss, summed over a sequence: its size, averaged over rows.",
        Arms = [WandaArm, WandaArm + Refined],
        Settings = ["50 %, means 3", "70 %, means 3", "50 %, means 0", "70 %, means 0"],
        Metric = OutputError,
    };

    private static readonly Experiment Language = new()
    {
        Name = "language model",
        About = "32 calibration windows of 256 tokens, block after block; swaps up to 3 % of a row's kept weights (at least one), same sign required, in all layers or in attention only; perplexity on 64 held-out windows of 256 tokens.",
        Arms = [ModelBench.DenseArm, MagnitudeArm, MagnitudeArm + Refined, WandaArm, WandaArm + Refined, WandaArm + Refined + AttentionOnly],
        Settings = ["70 %", "80 %"],
        Metric = ModelBench.PerplexityMetric,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Swapping pruned and kept weights, row by row, until the expected error of each row's output is near zero improves a finished mask without gradients or weight changes, the more so at 60 to 70 % sparsity (Zhang et al., arXiv 2310.08915).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Synthetic, Language];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        model: meta-llama/Llama-3.2-1B
        data: { calibration: allenai/c4:en:train, samples: 128, length: 2048, evaluation: Salesforce/wikitext:wikitext-2-raw-v1:test }
        prune: { criterion: wanda, sparsity: 0.7, repair: { method: dsnot, cycle_share: 1 } }   # also 0.5, 0.6 and 2:4; repair none
        seed: 0                                                                                 # then 1 and 2
        out: ./llama-dsnot-70
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using ModelBench bench = ModelBench.Open(context, seed);
        return [.. RunSynthetic(seed), .. RunLanguage(bench)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        string refined = WandaArm + Refined;
        return
        [
            .. from s in new[] { "50 %, means 3", "70 %, means 3" } select Check.AtMost($"one layer, {s}: output error over Wanda's", results.At(Synthetic.Name, s).Ratio(OutputError, refined, WandaArm), 0.75, everySeed: true),
            .. from s in new[] { "50 %, means 3", "70 %, means 3" } select Check.AtLeast($"one layer, {s}: row error falls by", Fall(results.At(Synthetic.Name, s)), 50, "%", everySeed: true),
            Check.AtLeast("language model, 70 %: row error falls by", Fall(results.At(Language.Name, "70 %")), 15, "%"),
            Check.AtMost("language model, 70 %: perplexity above Wanda's", Above("70 %"), 0.5, "%"),
            Check.AtMost("language model, 80 %: perplexity above Wanda's", Above("80 %"), -0.3, "%"),
        ];

        IReadOnlyList<double> Fall(SettingResults at) => at.PerSeed(m => 100 * (1 - (m(refined, RowErrorAfter) / m(refined, RowErrorBefore))));

        IReadOnlyList<double> Above(string setting) =>
            [.. results.At(Language.Name, setting).Ratio(ModelBench.PerplexityMetric, refined, WandaArm).Select(r => 100 * (r - 1))];
    }

    private static List<Measurement> RunSynthetic(Seed seed)
    {
        var measured = new List<Measurement>();
        foreach (string setting in Synthetic.Settings)
        {
            string[] parts = setting.Split(", means ");
            Pattern pattern = ModelBench.PatternOf(parts[0]);
            using SyntheticLayer layer = SyntheticLayer.Correlated(seed, parts[1] == "3" ? 3 : 0);
            var refinement = new Watched(new DSnoT { CycleShare = 1, RequireSameSign = true, Skip = "none" });
            layer.Use(refinement.Needs, context =>
            {
                Tensor keep = MaskSelection.Choose(new Wanda(), context, pattern, Scope.Row, pattern.Sparsity);
                var start = new PrunedLayer(MaskSelection.Apply(context.Weight, keep), keep);
                Add(WandaArm, OutputError, layer.OutputError(start.Weight));
                Add(WandaArm + Refined, OutputError, layer.OutputError(refinement.Repair(context, start, pattern).Weight));
                foreach ((string metric, double value) in refinement.Figures)
                {
                    Add(WandaArm + Refined, metric, value);
                }
            });

            void Add(string arm, string metric, double value) => measured.Add(new Measurement(Synthetic.Name, setting, arm, metric, value));
        }

        return measured;
    }

    private static IReadOnlyList<Measurement> RunLanguage(ModelBench bench)
    {
        Watched? refinement = null;
        return bench.Compare(
            Language,
            (arm, setting) =>
            {
                refinement = !arm.Contains(Refined) ? null
                    : new Watched(new DSnoT { CycleShare = 0.03, RequireSameSign = true, Skip = arm.EndsWith(AttentionOnly, StringComparison.Ordinal) ? "mlp" : "none" });
                double sparsity = ModelBench.PatternOf(setting).Sparsity;
                return new PruningPlan { Criterion = arm.StartsWith(WandaArm, StringComparison.Ordinal) ? new Wanda() : new Magnitude(), Pattern = Pattern.Unstructured(sparsity, Scope.Row), Repair = refinement };
            },
            (_, _, _) => refinement?.Figures ?? []);
    }

    /// <summary>A refinement that notes what each row's output is expected to miss, before and after, over all rows it sees.</summary>
    private sealed class Watched(DSnoT inner) : IRepair
    {
        private double _before, _after;
        private long _rows, _swaps;

        public CalibrationNeeds Needs => inner.Needs;

        public IEnumerable<(string Metric, double Value)> Figures =>
            [(RowErrorBefore, _before / _rows), (RowErrorAfter, _after / _rows), ("swaps per row", (double)_swaps / _rows)];

        public PrunedLayer Repair(LayerContext layer, PrunedLayer pruned, Pattern pattern)
        {
            PrunedLayer refined = inner.Repair(layer, pruned, pattern);
            using var scope = NewDisposeScope();
            _before += DSnoT.RowErrors(layer, pruned.Keep).abs().sum(ScalarType.Float64).item<double>();
            _after += DSnoT.RowErrors(layer, refined.Keep).abs().sum(ScalarType.Float64).item<double>();
            _swaps += refined.Keep.logical_and(pruned.Keep.logical_not()).sum().item<long>();
            _rows += layer.Weight.shape[0];
            return refined;
        }
    }
}
