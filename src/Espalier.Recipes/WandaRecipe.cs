using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>Wanda: input norms make a better choice than magnitudes, the more so the more uneven the inputs are (card, quick reproduction).</summary>
[Reproduces("wanda")]
public sealed class WandaRecipe : Recipe
{
    private const string Magnitude = "magnitude", ByRows = "magnitude, rows", Wanda = "wanda", OutputError = "output error";

    private static readonly Experiment Synthetic = new()
    {
        Name = "one layer with a few large inputs",
        About = "W of N(0, 1) [64, 100]; 2,000 inputs of N(0, 1), 7 of the 100 scaled 20 times; both criteria rank within rows. The output error is the mean square against the dense layer.",
        Arms = [Magnitude, Wanda],
        Settings = ["50 %", "60 %", "70 %"],
        Metric = OutputError,
    };

    private static readonly Experiment Language = new()
    {
        Name = "language model",
        About = "Magnitude ranked within layers (the published baseline) and within rows, Wanda within rows, all one-shot; 32 calibration windows of 256 tokens, block after block; perplexity on 64 held-out windows of 256 tokens.",
        Arms = [ModelBench.DenseArm, Magnitude, ByRows, Wanda],
        Settings = ["60 %", "70 %", "80 %", "2:4"],
        Metric = ModelBench.PerplexityMetric,
    };

    private static readonly Experiment Unevenness = new()
    {
        Name = "how uneven the inputs are",
        About = "The largest input norm of a linear map of the dense model over the median one, averaged over the blocks: the larger, the more a criterion gains that looks at inputs. The maps of a Llama block that read an input of their own; k and v read q's, up reads gate's.",
        Arms = ["q_proj", "o_proj", "gate_proj", "down_proj"],
        Metric = "largest over median input norm",
        LowerIsBetter = null,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "The product of a weight's magnitude and its input's norm, ranked within each output row, chooses better than magnitude alone; no weight is changed and nothing is trained (Sun et al., arXiv 2306.11695).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Synthetic, Language, Unevenness];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        model: meta-llama/Llama-2-7b-hf
        data: { calibration: allenai/c4:en:train, samples: 128, evaluation: Salesforce/wikitext:wikitext-2-raw-v1:test }
        prune: { criterion: wanda, sparsity: 0.5 }   # also pattern 4:8 and 2:4; criterion magnitude and sparsegpt
        seed: 0                                      # then 1 and 2
        out: ./llama-wanda-50
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using ModelBench bench = ModelBench.Open(context, seed);
        return
        [
            .. RunSynthetic(seed),
            .. bench.Compare(Language, PlanOf),
            .. RunUnevenness(bench),
        ];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results) =>
    [
        .. Synthetic.Settings.Select(s => Check.AtMost($"one layer, {s}: output error of Wanda over magnitude's", results.At(Synthetic.Name, s).Ratio(OutputError, Wanda, Magnitude), 0.1, everySeed: true)),
        Check.AtMost("language model, 70 %: rise of log-perplexity of Wanda over magnitude's", results.At(Language.Name, "70 %").Ratio(ModelBench.Rise, Wanda, Magnitude), 0.97),
        Check.AtMost("language model, 80 %: rise of log-perplexity of Wanda over magnitude's", results.At(Language.Name, "80 %").Ratio(ModelBench.Rise, Wanda, Magnitude), 0.85),
    ];

    // An N:M pattern ranks within groups, so rows change nothing there.
    private static PruningPlan? PlanOf(string arm, string setting)
    {
        Pattern pattern = ModelBench.PatternOf(setting);
        ICriterion criterion = arm == Wanda ? new Methods.Pruning.Wanda() : new Methods.Pruning.Magnitude();
        return arm != ByRows ? new PruningPlan { Criterion = criterion, Pattern = pattern }
            : pattern is Pattern.UnstructuredPattern ? new PruningPlan { Criterion = criterion, Pattern = Pattern.Unstructured(pattern.Sparsity, Scope.Row) }
            : null;
    }

    private static List<Measurement> RunSynthetic(Seed seed)
    {
        var measured = new List<Measurement>();
        using SyntheticLayer layer = SyntheticLayer.Outliers(seed, outliers: 7, scale: 20);
        foreach (string setting in Synthetic.Settings)
        {
            Pattern pattern = ModelBench.PatternOf(setting);
            layer.Use(CalibrationNeeds.InputNorms, context =>
            {
                foreach ((string arm, ICriterion criterion) in new (string, ICriterion)[] { (Magnitude, new Methods.Pruning.Magnitude()), (Wanda, new Methods.Pruning.Wanda()) })
                {
                    Tensor keep = MaskSelection.Choose(criterion, context, pattern, Scope.Row, pattern.Sparsity);
                    measured.Add(new Measurement(Synthetic.Name, setting, arm, OutputError, layer.OutputError(MaskSelection.Apply(context.Weight, keep))));
                }
            });
        }

        return measured;
    }

    private static IEnumerable<Measurement> RunUnevenness(ModelBench bench)
    {
        var ratios = new List<(string Map, double Ratio)>();
        bench.Watch(CalibrationNeeds.InputNorms, layer =>
        {
            Tensor norms = layer.InputNorms!.sqrt();
            ratios.Add((layer.Name.Split('.')[^2], norms.max().item<float>() / norms.median().item<float>()));
        });
        return ratios.GroupBy(r => r.Map).SelectMany(g => new[]
        {
            new Measurement(Unevenness.Name, Experiment.Only, g.Key, Unevenness.Metric, g.Average(r => r.Ratio)),
            new Measurement(Unevenness.Name, Experiment.Only, g.Key, "in the most uneven block", g.Max(r => r.Ratio)),
        });
    }
}
