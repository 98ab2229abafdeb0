using Espalier.Methods.Pruning;
using Espalier.Pruning.Measuring;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>GBLM: gradients tell what input norms alone do not (card, quick reproduction).</summary>
[Reproduces("gblm")]
public sealed class GblmRecipe : Recipe
{
    private const string Magnitude = "magnitude", Wanda = "wanda", Gradient = "gradient only", L1 = "gblm l1, scale 100", L2 = "gblm l2, scale 100", Balanced = "gblm l2, balanced";
    private const string Spread = "spread of zeros over inputs";

    private static readonly Experiment Language = new()
    {
        Name = "language model",
        About = "One-shot, ranked within rows (magnitude within layers); 32 calibration windows of 256 tokens for gradients and input norms; perplexity on 64 held-out windows of 256 tokens. Balanced: the gradient term is scaled so that the medians of both terms are equal in each layer. The spread is the standard deviation of the share of zeros over a layer's inputs, averaged over layers: the structure that a criterion leaves.",
        Arms = ["dense", Magnitude, Wanda, Gradient, L1, L2, Balanced],
        Settings = ["70 %", "80 %", "4:8"],
        Metric = ModelBench.PerplexityMetric,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Adding the norm of the loss gradient, taken once over the calibration text, to Wanda's score chooses better than Wanda and than gradients alone (Das et al., arXiv 2311.04902).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Language];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        model: meta-llama/Llama-3.2-1B
        data: { calibration: allenai/c4:en:train, samples: 128, length: 2048, evaluation: Salesforce/wikitext:wikitext-2-raw-v1:test, context: 2048 }
        prune: { criterion: { method: gblm, norm: l1, scale: 100 }, sparsity: 0.5 }   # also 0.6 and 4:8; wanda; mode gradient
        seed: 0                                                                       # then 1 and 2
        out: ./llama-gblm-50
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using ModelBench bench = ModelBench.Open(context, seed);
        Measurements l1 = Gradients(GradientNorm.L1), l2 = Gradients(GradientNorm.L2);
        return bench.Compare(Language, (arm, setting) => new PruningPlan { Criterion = Criterion(arm), Pattern = ModelBench.PatternOf(setting) }, (_, _, pruned) => [(Spread, SpreadOf(pruned))]);

        Measurements Gradients(GradientNorm norm)
        {
            var part = new Gblm { Norm = norm };
            return bench.Measure(part, new PruningPlan { Criterion = part, Pattern = Pattern.Unstructured(0.5) });
        }

        ICriterion Criterion(string arm) => arm switch
        {
            Magnitude => new Magnitude(),
            Wanda => new Wanda(),
            Gradient => (ICriterion)new Gblm { Mode = GblmMode.Gradient, Norm = GradientNorm.L1 }.With(l1),
            L1 => (ICriterion)new Gblm { Scale = 100, Norm = GradientNorm.L1 }.With(l1),
            L2 => (ICriterion)new Gblm { Scale = 100 }.With(l2),
            _ => (ICriterion)new Gblm().With(l2),
        };
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        return
        [
            Check.AtMost("perplexity of balanced GBLM (l2) over Wanda's, mean of 70 % and 80 %", OverBoth(Balanced, Wanda), 0.997),
            Check.AtMost("perplexity of GBLM (l1, scale 100) over Wanda's, mean of 70 % and 80 %", OverBoth(L1, Wanda), 1.003),
            Check.AtLeast("80 %: perplexity of gradients alone over GBLM's (l1, scale 100)", results.At(Language.Name, "80 %").Ratio(ModelBench.PerplexityMetric, Gradient, L1), 1),
        ];

        double[] OverBoth(string arm, string baseline) =>
            [.. results.At(Language.Name, "70 %").Ratio(ModelBench.PerplexityMetric, arm, baseline)
                .Zip(results.At(Language.Name, "80 %").Ratio(ModelBench.PerplexityMetric, arm, baseline), (a, b) => (a + b) / 2)];
    }

    private static double SpreadOf(PrunedModel pruned)
    {
        using var scope = NewDisposeScope();
        return pruned.Masks.Values.Average(mask => mask.ToTensor().to(ScalarType.Float32).mean([0L]).std().item<float>());
    }
}
