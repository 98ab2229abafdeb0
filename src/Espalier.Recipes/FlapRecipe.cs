using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Pruning.Structured;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>FLAP: what hardly fluctuates can be replaced by a bias, and a search over layers says how much each gives (card, quick reproduction).</summary>
[Reproduces("flap")]
public sealed class FlapRecipe : Recipe
{
    private const string FlapArm = "FLAP", NoBias = "FLAP, no bias", Uniform = "FLAP, uniform", WandaSp = "Wanda-sp", MagSp = "Mag-sp";
    private const string OutputError = "output error", Kept = "parameters", Share = "blocks kept, %";
    private const string Difference = "cut from masked", Gain = "times as fast";

    private static readonly Experiment Synthetic = new()
    {
        Name = "one layer whose inputs have means",
        About = "W = 0.1·N(0, 1) [48, 64]; inputs mu_j + sigma_j·N(0, 1), mu of 3·N(0, 1), sigma log-uniform in [0.1, 2], 40 windows of 50; 30 or 50 % of the inputs removed. The output error is the mean square against the dense layer.",
        Arms = [FlapArm, NoBias, WandaSp],
        Settings = ["30 %", "50 %"],
        Metric = OutputError,
    };

    private static readonly Experiment Language = new()
    {
        Name = "language model",
        About = "Heads (whole key-value groups) and neurons cut out, no retraining; 128 calibration windows of 128 tokens; perplexity on 64 held-out windows of 256 tokens. The share is that of the blocks' parameters; widths are not rounded. The uniform arms take the same share from every block, FLAP searches over all; Wanda-sp and Mag-sp have no bias. The masked model is the dense one with the removed units' columns at 0 and the same biases: the largest difference of logits over the largest logit. Speed: forward pass of 4 × 128 tokens against the dense model's, in turns.",
        Arms = [ModelBench.DenseArm, FlapArm, NoBias, Uniform, WandaSp, MagSp],
        Settings = ["30 %", "50 %"],
        Metric = ModelBench.PerplexityMetric,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Units whose activations fluctuate least around their mean can go without retraining when a bias takes over the mean; standardised scores share the budget out over layers; the result is dense, smaller and faster (An et al., arXiv 2312.11983).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Synthetic, Language];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        model: meta-llama/Llama-3.2-1B
        data: { calibration: Salesforce/wikitext:wikitext-2-raw-v1:train, samples: 1024, length: 128, evaluation: Salesforce/wikitext:wikitext-2-raw-v1:test, context: 128 }
        prune: { criterion: flap, pattern: structured, sparsity: 0.5 }   # also 0.2; repair none; allocator uniform; criterion wanda, magnitude
        seed: 0                                                          # then 1 and 2
        out: ./llama-flap-50
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using ModelBench bench = ModelBench.Open(context, seed, samples: 128, calibrationLength: 128);
        using LanguageModel dense = LanguageModel.Load(bench.Text.Folder, context.Device);
        return
        [
            .. RunSynthetic(seed),
            .. bench.Compare(Language, PlanOf, (arm, setting, pruned) =>
            [
                (Kept, pruned.Structure!.ParametersAfter),
                (Share, 100 * (1 - pruned.Structure.Achieved)),
                (Difference, FromMasked(bench, dense, pruned)),
                .. arm == FlapArm ? [(Gain, SpeedComparison.Measure(dense, pruned.Model, context.Device, context.Cancellation).Gain)] : Array.Empty<(string, double)>(),
            ]),
        ];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        string[] cut = [FlapArm, NoBias, Uniform, WandaSp, MagSp];
        return
        [
            .. Synthetic.Settings.Select(s => Check.AtMost($"one layer, {s}: output error of FLAP over Wanda-sp's", results.At(Synthetic.Name, s).Ratio(OutputError, FlapArm, WandaSp), 0.15, everySeed: true)),
            .. Synthetic.Settings.Select(s => Check.AtLeast($"one layer, {s}: output error of FLAP without bias over Wanda-sp's", results.At(Synthetic.Name, s).Ratio(OutputError, NoBias, WandaSp), 1, everySeed: true)),
            .. Language.Settings.Select(s => Check.AtMost($"language model, {s}: perplexity of FLAP over Mag-sp's", results.At(Language.Name, s).Ratio(ModelBench.PerplexityMetric, FlapArm, MagSp), 0.9)),
            .. Language.Settings.Select(s => Check.AtMost($"language model, {s}: largest difference of the kept parameters between arms", results.At(Language.Name, s).PerSeed(m => 100 * ((cut.Max(a => m(a, Kept)) / cut.Min(a => m(a, Kept))) - 1)), 1, "%", everySeed: true)),
            .. Language.Settings.Select(s => Check.AtMost($"language model, {s}: cut model from masked model, any arm", results.At(Language.Name, s).PerSeed(m => cut.Max(a => m(a, Difference))), 1e-5, everySeed: true)),
            Check.AtLeast("language model, 50 %: tokens per second of the cut model over the dense one's", results.At(Language.Name, "50 %").Values(FlapArm, Gain), 1.3),
        ];
    }

    private static PruningPlan? PlanOf(string arm, string setting)
    {
        var flap = new Flap();
        var plan = new PruningPlan { Criterion = flap, Pattern = Pattern.Structured(ModelBench.PatternOf(setting).Sparsity, new() { Round = 1 }) };
        return arm switch
        {
            FlapArm => plan with { Repair = flap },
            NoBias => plan,
            Uniform => plan with { Repair = flap, UnitAllocator = new Uniform() },
            WandaSp => plan with { Criterion = new Wanda() },
            _ => plan with { Criterion = new Magnitude() },
        };
    }

    private static List<Measurement> RunSynthetic(Seed seed)
    {
        var measured = new List<Measurement>();
        using SyntheticLayer layer = SyntheticLayer.Offset(seed);
        layer.Use(CalibrationNeeds.InputNorms | CalibrationNeeds.InputMoments, context =>
        {
            var flap = new Flap();
            using IUnitWatch seen = flap.Watch(layer.Inputs.shape[^1], CPU);
            seen.Observe(layer.Inputs);
            var place = new UnitContext { Name = context.Name, Kind = CoupledKind.Neuron, Width = layer.Inputs.shape[^1], Weight = context.Weight, InputNorms = context.InputNorms, Seen = seen };
            foreach (string setting in Synthetic.Settings)
            {
                (Tensor byFlap, Tensor byWanda) = (Without(flap.Score(place)), Without(new Wanda().Score(place)));
                Add(FlapArm, layer.OutputError(byFlap, flap.Bias(context.Weight, byFlap, context.InputMean!)));
                Add(NoBias, layer.OutputError(byFlap));
                Add(WandaSp, layer.OutputError(byWanda));

                Tensor Without(Tensor score)
                {
                    long gone = (long)Math.Floor(ModelBench.PatternOf(setting).Sparsity * place.Width);
                    return context.Weight.index_fill(1, score.argsort().narrow(0, 0, gone), 0);
                }

                void Add(string arm, double error) => measured.Add(new Measurement(Synthetic.Name, setting, arm, OutputError, error));
            }
        });

        return measured;
    }

    /// <summary>How far the cut model's answers are from those of the dense model whose removed units are silenced: they must be the same function.</summary>
    private static double FromMasked(ModelBench bench, LanguageModel dense, PrunedModel pruned)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using LanguageModel masked = Masked(dense, pruned);
        Tensor ids = bench.Text.Windows.narrow(0, 0, 2).to(dense.Blocks[0].Linears[0].Linear.weight.device);
        Tensor wanted = masked.Logits(ids);
        return ((pruned.Model.Logits(ids) - wanted).abs().max() / wanted.abs().max()).item<float>();
    }

    private static LanguageModel Masked(LanguageModel dense, PrunedModel pruned)
    {
        var weights = dense.Tensors.ToDictionary(t => t.Name, t => t.Value, StringComparer.Ordinal);
        var biases = pruned.Model.Tensors.Where(t => !weights.ContainsKey(t.Name)).ToDictionary(t => t.Name, t => t.Value, StringComparer.Ordinal);
        ModelConfig config = biases.Count == 0 ? dense.Config : Architecture.For(dense.Config).WithReaderBiases(dense.Config, attention: true, feedForward: true);
        LanguageModel masked = LanguageModel.Random(config, new Seed(0), dense.Blocks[0].Linears[0].Linear.weight.device);
        var filled = masked.Tensors.ToDictionary(t => t.Name, t => t.Value, StringComparer.Ordinal);
        foreach ((string name, TorchSharp.Modules.Parameter value) in weights)
        {
            filled[name].copy_(value);
        }

        foreach (RemovedUnits removed in pruned.Removed)
        {
            SlicePattern reader = masked.Blocks[removed.Block].Groups.Single(g => g.Kind == removed.Kind).Reader;
            foreach (TensorSlice slice in removed.Units.Select(u => reader.At(u)))
            {
                filled[slice.Tensor].narrow(slice.Axis, slice.Start, slice.Length).zero_();
            }

            string bias = reader.Tensor[..^"weight".Length] + "bias";
            if (biases.TryGetValue(bias, out TorchSharp.Modules.Parameter? added))
            {
                filled[bias].copy_(added);
            }
        }

        return masked;
    }
}
