using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>PERP: a fraction of the parameters wins back what retraining all of them does (card, quick reproductions a and b).</summary>
[Reproduces("perp")]
public sealed partial class PerpRecipe : Recipe
{
    private const double Sparsity = 0.8;
    private const string Retraining = "retraining a pruned language model", Metric = "perplexity";
    private const string None = "none", Norms = "norms", MaskLora = "norms + MaskLoRA", LoraPrune = "norms + LoRA-Prune", Full = "all, masked";

    /// <inheritdoc/>
    public override string Claim =>
        "After pruning, training a small subset of the parameters (norms, biases, sparsity-preserving low-rank adapters) recovers almost as much as retraining all of them, and merges without touching a zero (Zimmer et al., arXiv 2312.15230).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments =>
    [
        new Experiment
        {
            Name = Retraining,
            About = "Uniform layer-wise magnitude pruning at 80 %; 60 steps of 8 × 128 training tokens, AdamW, linear schedule with 10 % warm-up; perplexity on 64 held-out windows of 256 tokens. Learning rates: norms 1e-2, adapters (r 8, alpha 16) 3e-3, all 1e-3.",
            Arms = [ModelBench.DenseArm, None, Norms, MaskLora, LoraPrune, Full],
            Metric = Metric,
        },
        Vision,
    ];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        model: meta-llama/Llama-3.2-1B
        data: { calibration: Salesforce/wikitext:wikitext-2-v1:validation, evaluation: Salesforce/wikitext:wikitext-2-v1:test, samples: 128 }
        prune: { criterion: wanda, sparsity: 0.6, repair: { method: perp, subset: [norms, masklora], steps: 200 } }
        retrain: { method: perp, subset: [norms, masklora], steps: 1000 }
        seed: 0   # then 1 and 2; also magnitude and sparsegpt, sparsity 0.5 and 0.7, pattern 2:4
        out: ./llama-60
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using RecipeText text = RecipeText.For(context, windows: context.Size is RecipeSize.Smoke ? 4 : 64, windowLength: 256);
        int steps = context.Size is RecipeSize.Smoke ? 3 : 60;
        var measured = new List<Measurement>();
        using Checkpoint checkpoint = Checkpoint.Open(text.Folder);
        ModelConfig config = ModelConfig.Load(text.Folder);
        Arm(None, null);
        Arm(Norms, (Subset.Norms, 1e-2));
        Arm(MaskLora, (Subset.Norms | Subset.MaskLora, 3e-3));
        Arm(LoraPrune, (Subset.Norms | Subset.LoraPrune, 3e-3));
        Arm(Full, (Subset.Full, 1e-3));
        measured.AddRange(RunVision(context, seed));
        return measured;

        void Add(string arm, string metric, double value) => measured.Add(new Measurement(Retraining, Experiment.Only, arm, metric, value));

        void Arm(string name, (Subset Subset, double Rate)? trained)
        {
            using var scope = NewDisposeScope();
            using LanguageModel model = LanguageModel.Load(config, checkpoint, context.Device);
            if (trained is null)
            {
                Measure(ModelBench.DenseArm, model);
            }

            Dictionary<string, SparsityMask> masks = PruneByMagnitude(model);
            if (trained is { } choice)
            {
                var perp = new Perp { Subset = choice.Subset, LearningRate = choice.Rate, Rank = 8, Alpha = 16, Steps = steps, Batch = 8, Length = 128 };
                var source = new PackedTokens(text.Training, perp.Batch, perp.Length!.Value, new Seed(seed.For("retraining text")));
                RetrainingResult result = RecipeTraining.Retrain(perp, model, source, seed, context, masks);
                Add(name, "trained parameters", result.Trained);
                Add(name, "seconds", result.Seconds);
            }

            long revived = model.Blocks.SelectMany(b => b.Linears).Sum(l => masks[l.Name].Revived(l.Linear.Matrix.detach()));
            Add(name, "revived zeros", revived);
            Measure(name, model);
        }

        void Measure(string name, LanguageModel model)
        {
            using var scope = NewDisposeScope();
            Add(name, Metric, Perplexity.Evaluate(model, text.Windows, progress: null, cancellation: context.Cancellation).Value);
            context.Progress.Say(FormattableString.Invariant($"  {name}: perplexity {measured[^1].Value:F2}"));
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults measured = results.At(Retraining);
        // The share of the log-perplexity that full retraining recovers.
        IReadOnlyList<double> Recovered(string arm) =>
            measured.PerSeed(m => 100 * Math.Log(m(None, Metric) / m(arm, Metric)) / Math.Log(m(None, Metric) / m(Full, Metric)));
        string[] retrained = [Norms, MaskLora, LoraPrune, Full];
        return
        [
            Check.AtLeast("norms + MaskLoRA recover of what retraining all parameters recovers", Recovered(MaskLora), 80, "%"),
            Check.AtMost("… with so many of its trained parameters", measured.PerSeed(m => 100 * m(MaskLora, "trained parameters") / m(Full, "trained parameters")), 10, "%"),
            Check.AtLeast("MaskLoRA below LoRA-Prune in perplexity after merging", measured.PerSeed(m => 100 * (1 - (m(MaskLora, Metric) / m(LoraPrune, Metric)))), 5, "%"),
            Check.AtLeast("norms alone recover of what retraining all parameters recovers", Recovered(Norms), 30, "%"),
            Check.AtMost("zeros revived by any merge", measured.PerSeed(m => retrained.Sum(a => m(a, "revived zeros"))), 0, everySeed: true),
            .. JudgeVision(results.At(Vision.Name)),
        ];
    }

    private static Dictionary<string, SparsityMask> PruneByMagnitude(LanguageModel model)
    {
        var masks = new Dictionary<string, SparsityMask>(StringComparer.Ordinal);
        using var _ = no_grad();
        foreach (BlockLinear linear in model.Blocks.SelectMany(b => b.Linears))
        {
            using var scope = NewDisposeScope();
            Tensor weight = linear.Linear.Matrix.detach();
            Tensor keep = MaskSelection.KeepLargestPerLayer(weight.abs(), Sparsity, linear.Name);
            linear.Linear.SetMatrix(MaskSelection.Apply(weight, keep));
            masks[linear.Name] = SparsityMask.FromTensor(keep);
        }

        return masks;
    }
}
