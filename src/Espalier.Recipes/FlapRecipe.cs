using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Pruning.Structured;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>FLAP: what hardly fluctuates can be replaced by its mean, which a bias carries (card, quick reproduction).</summary>
[Reproduces("flap")]
public sealed class FlapRecipe : Recipe
{
    private const string Flap = "flap", NoBias = "flap without bias", WandaSp = "wanda-sp", MagnitudeSp = "mag-sp";
    private const string OutputError = "output error", Kept = "block parameters kept, %", Speed = "speed against dense", Masked = "difference from the masked model";

    private static readonly Experiment Synthetic = new()
    {
        Name = "one layer with means and spreads",
        About = "x_j = mu_j + sigma_j·noise, mu of 3·N(0, 1), sigma log-uniform from 0.1 to 2; W of 0.1·N(0, 1) [48, 64]; 40 windows of 50 tokens. A share of the inputs is removed; the error is the mean square against the dense layer.",
        Arms = [Flap, NoBias, WandaSp],
        Settings = ["30 %", "50 %"],
        Metric = OutputError,
    };

    private static readonly Experiment Language = new()
    {
        Name = "language model",
        About = "Key-value groups and neurons are cut out, the given share of the blocks' parameters in all: FLAP by its search over all blocks, Wanda-sp and Mag-sp the same share of every block; widths are not rounded. 128 calibration windows of 128 tokens; perplexity on 96 held-out windows of 128 tokens. Speed: forward passes in turns with the dense model.",
        Arms = ["dense", Flap, NoBias, WandaSp, MagnitudeSp],
        Settings = ["30 %", "50 %"],
        Metric = ModelBench.PerplexityMetric,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Heads and neurons whose weighted activations fluctuate least can go, layer widths following from one standardised ranking, when a bias takes over what they added on average: no retraining, and better than ranking by magnitude (An et al., arXiv 2312.11983).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Synthetic, Language];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        model: meta-llama/Llama-2-7b-hf
        data: { calibration: Salesforce/wikitext:wikitext-2-raw-v1:train, samples: 1024, length: 128, evaluation: Salesforce/wikitext:wikitext-2-raw-v1:test }
        prune: { criterion: flap, pattern: structured, sparsity: 0.2 }   # also repair none, criterion wanda and magnitude; 0.5
        seed: 0                                                          # then 1 and 2
        out: ./llama-flap-20
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using ModelBench bench = ModelBench.Open(context, seed, samples: 128, windows: 96, length: 128);
        using LanguageModel dense = LanguageModel.Load(bench.Text.Folder, context.Device);
        return
        [
            .. RunSynthetic(seed),
            .. bench.Compare(Language, (arm, setting) => new PruningPlan
            {
                Criterion = arm switch { WandaSp => new Wanda(), MagnitudeSp => new Magnitude(), _ => new Methods.Pruning.Flap() },
                Repair = arm == Flap ? new Methods.Pruning.Flap() : null,
                Pattern = Pattern.Structured(ModelBench.PatternOf(setting).Sparsity, new() { Round = 1 }),
            }, (arm, _, pruned) => Figures(arm, dense, pruned.Model, bench, context)),
        ];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results) =>
    [
        .. Synthetic.Settings.Select(s => Check.AtMost($"one layer, {s}: output error of FLAP over Wanda-sp's", results.At(Synthetic.Name, s).Ratio(OutputError, Flap, WandaSp), 0.15, everySeed: true)),
        .. Synthetic.Settings.Select(s => Check.AtLeast($"one layer, {s}: output error of FLAP without bias over Wanda-sp's", results.At(Synthetic.Name, s).Ratio(OutputError, NoBias, WandaSp), 1, everySeed: true)),
        .. Language.Settings.Select(s => Check.AtMost($"language model, {s}: perplexity of FLAP over Mag-sp's", results.At(Language.Name, s).Ratio(ModelBench.PerplexityMetric, Flap, MagnitudeSp), 0.9)),
        .. Language.Settings.Select(s => Check.AtMost($"language model, {s}: largest difference of logits between the cut and the masked model", results.At(Language.Name, s).Values(NoBias, Masked), 1e-4, everySeed: true)),
        Check.AtLeast("language model, 50 %: speed of the cut model against the dense one", results.At(Language.Name, "50 %").Values(Flap, Speed), 1.3, "times"),
    ];

    private static List<Measurement> RunSynthetic(Seed seed)
    {
        var measured = new List<Measurement>();
        using SyntheticLayer layer = SyntheticLayer.Fluctuating(seed);
        using var scope = NewDisposeScope();
        using var free = no_grad();
        using var watch = new FlapAccumulator(layer.Weight.shape[1]);
        watch.Observe(layer.Inputs);
        FlapStatistics figures = watch.Figures();
        Tensor flap = Methods.Pruning.Flap.Metric(figures, layer.Weight, FlapMetric.Wifv, attention: false), wanda = Methods.Pruning.Flap.Metric(figures, layer.Weight, FlapMetric.Wifn, attention: false);
        foreach (string setting in Synthetic.Settings)
        {
            Tensor keep = Best(flap, setting);
            Tensor masked = Without(keep);
            (Tensor bias, _) = Methods.Pruning.Flap.Compensate(layer.Weight, figures.Baseline, keep);
            Add(Flap, layer.OutputError(masked, bias));
            Add(NoBias, layer.OutputError(masked));
            Add(WandaSp, layer.OutputError(Without(Best(wanda, setting))));

            void Add(string arm, double error) => measured.Add(new Measurement(Synthetic.Name, setting, arm, OutputError, error));
        }

        return measured;

        Tensor Without(Tensor keep) => layer.Weight.masked_fill(keep.logical_not().unsqueeze(0), 0);

        static Tensor Best(Tensor score, string setting) => MaskSelection.KeepLargestPerLayer(score, ModelBench.PatternOf(setting).Sparsity, "the synthetic layer");
    }

    private static IEnumerable<(string Metric, double Value)> Figures(string arm, LanguageModel dense, LanguageModel cut, ModelBench bench, RecipeContext context)
    {
        yield return (Kept, 100.0 * Parameters(cut) / Parameters(dense));
        if (arm == Flap)
        {
            yield return (Speed, SpeedComparison.Measure(dense, cut, context.Device, context.Cancellation).Gain);
        }
        else if (arm == NoBias)
        {
            yield return (Masked, MaskedDifference(dense, cut, bench));
        }

        static long Parameters(LanguageModel model) => model.Blocks.SelectMany(b => b.Tensors).Sum(t => t.Value.numel());
    }

    // The dense model with what the cut one lacks forced to zero: the readers' columns of the inputs that went.
    private static double MaskedDifference(LanguageModel dense, LanguageModel cut, ModelBench bench)
    {
        using var scope = NewDisposeScope();
        using var free = no_grad();
        var changed = new List<(Linear Reader, Tensor Whole)>();
        foreach ((DecoderBlock before, DecoderBlock after) in dense.Blocks.Zip(cut.Blocks))
        {
            foreach ((BlockLinear whole, BlockLinear narrow) in before.Linears.Zip(after.Linears).Where(p => p.First.Linear.InFeatures > p.Second.Linear.InFeatures))
            {
                changed.Add((whole.Linear, whole.Linear.Matrix.detach().clone()));
                whole.Linear.SetMatrix(OnlyColumnsOf(whole.Linear.Matrix.detach(), narrow.Linear.Matrix.detach()));
            }
        }

        Tensor ids = tensor(bench.Calibration[0]).unsqueeze(0);
        double difference = (dense.Logits(ids) - cut.Logits(ids)).abs().max().item<float>();
        changed.ForEach(c => c.Reader.SetMatrix(c.Whole));
        return difference;
    }

    // The kept columns are those of the dense map, in order: each is found behind the one before.
    private static Tensor OnlyColumnsOf(Tensor whole, Tensor narrow)
    {
        Tensor result = zeros_like(whole);
        long at = 0;
        for (long c = 0; c < narrow.shape[1]; c++)
        {
            using var step = NewDisposeScope();
            Tensor column = narrow.select(1, c);
            while (!whole.select(1, at).equal(column).all().item<bool>())
            {
                at++;
            }

            result.select(1, at++).copy_(column);
        }

        return result;
    }
}
