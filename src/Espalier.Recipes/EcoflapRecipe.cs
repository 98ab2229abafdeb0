using Espalier.Evaluation;
using Espalier.Methods.Pruning;
using Espalier.Pruning.Measuring;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;

namespace Espalier.Recipes;

/// <summary>ECoFLaP: shares from a global importance, measured by forward passes alone, beat equal shares (card, quick reproduction).</summary>
[Reproduces("ecoflap")]
public sealed class EcoflapRecipe : Recipe
{
    private const string Uniform = "uniform", Zeroth = "ecoflap, zeroth order", First = "ecoflap, first order", Chance = "random scores", Global = "global magnitude";

    private static readonly Experiment Language = new()
    {
        Name = "language model",
        About = "Wanda within rows, block by block, at the share of its block (global magnitude: one ranking of all weights); no block loses more than the model's sparsity + 10 points. 16 calibration windows of 128 tokens, the same for scores and Wanda; scores from 4 batches of 4 windows, one direction each, a step of 1e-3. Perplexity on 96 held-out windows of 128 tokens.",
        Arms = ["dense", Uniform, Zeroth, First, Chance, Global],
        Settings = ["60 %", "70 %", "80 %"],
        Metric = ModelBench.PerplexityMetric,
    };

    private static readonly Experiment Agreement = new()
    {
        Name = "do the scores agree",
        About = "Spearman's rank correlation of zeroth- and first-order scores over all weights, and over blocks. A difference along a random direction grows with the square root of the number of weights and a sum of gradients linearly, so they need not agree.",
        Arms = ["zeroth order"],
        Metric = "rank correlation over weights",
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Giving each block its own sparsity, from a global importance that forward passes alone can measure, and pruning locally at that share beats equal shares and comes near first-order scores (Sung, Yoon, Bansal, arXiv 2310.02998).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Language, Agreement];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        model: meta-llama/Llama-3.2-1B   # the paper's BLIP models need a vision tower
        data: { calibration: allenai/c4:en:train, samples: 128, evaluation: Salesforce/wikitext:wikitext-2-raw-v1:test }
        prune: { criterion: wanda, sparsity: 0.7, allocator: { method: ecoflap, samples: 32, batch: 8 } }   # also order first, allocator uniform; 0.5 and 0.6
        seed: 0                                                                                             # then 1 and 2
        out: ./llama-ecoflap-70
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using ModelBench bench = ModelBench.Open(context, seed, samples: 16, windows: 96, length: 128);
        Measurements zeroth = Scores(EcoflapOrder.Zeroth), first = Scores(EcoflapOrder.First);
        var random = new Dictionary<string, double>();
        IReadOnlyList<Measurement> compared = bench.Compare(Language, (arm, setting) => new PruningPlan
        {
            Criterion = arm == Global ? new Magnitude() : new Wanda(),
            Pattern = ModelBench.PatternOf(setting),
            Allocator = arm switch
            {
                Zeroth => (IAllocator)new Ecoflap().With(zeroth),
                First => (IAllocator)new Ecoflap { Order = EcoflapOrder.First }.With(first),
                Chance => new Ecoflap().WithScores(name => Drawn(name)),
                Global => new GlobalRanking(),
                _ => new Sparsity.Uniform(),
            },
        });
        return [.. compared, .. Agreements(bench, zeroth, first)];

        Measurements Scores(EcoflapOrder order)
        {
            var part = new Ecoflap { Order = order, Samples = 16, Batch = 4 };
            return bench.Measure(part, new PruningPlan { Criterion = new Wanda(), Pattern = Pattern.Unstructured(0.5), Allocator = part });
        }

        // One score per block, drawn once: as uneven as real ones may be.
        double Drawn(string name)
        {
            string block = Ecoflap.GroupOf(name, EcoflapGroup.Block);
            return random.TryGetValue(block, out double score) ? score : random[block] = seed.Random($"random score {block}").NextDouble();
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results) =>
    [
        Check.AtMost("70 %: perplexity of zeroth order over uniform's", results.At(Language.Name, "70 %").Ratio(ModelBench.PerplexityMetric, Zeroth, Uniform), 0.98),
        Check.AtMost("70 %: perplexity of zeroth order over first order's", results.At(Language.Name, "70 %").Ratio(ModelBench.PerplexityMetric, Zeroth, First), 1.02),
    ];

    private static IEnumerable<Measurement> Agreements(ModelBench bench, Measurements zeroth, Measurements first)
    {
        var names = new List<string>();
        bench.Watch(CalibrationNeeds.InputNorms, layer => names.Add(layer.Name));
        double[] a = [.. names.Select(zeroth.Number)], b = [.. names.Select(first.Number)];
        string[] blocks = [.. names.Select(n => Ecoflap.GroupOf(n, EcoflapGroup.Block))];
        yield return new Measurement(Agreement.Name, Experiment.Only, Agreement.Arms[0], Agreement.Metric, Correlation.Spearman(a, b));
        yield return new Measurement(Agreement.Name, Experiment.Only, Agreement.Arms[0], "over blocks", Correlation.Spearman(PerBlock(a), PerBlock(b)));

        double[] PerBlock(double[] scores) => [.. scores.Zip(blocks).GroupBy(s => s.Second).Select(g => g.Sum(s => s.First))];
    }
}
