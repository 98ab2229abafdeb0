using System.Globalization;
using Espalier.Data;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>Minitron: a model cut by activations and taught by the original beats a small one from scratch, and a careless cut (card, quick reproduction).</summary>
[Reproduces("minitron")]
public sealed class MinitronRecipe : Recipe
{
    private const string Loss = "loss", Kept = "parameters";
    private const string Scratch = "random start, cross-entropy", Text = "pruned, cross-entropy", Distilled = "pruned, distilled", RandomDistilled = "random units, distilled";
    private const string Pruned = "pruned", RandomUnits = "random units";
    private const double Rate = 1e-3;

    private static readonly Experiment Cut = new()
    {
        Name = "cut, no step",
        About = "Three quarters of the channels of the residual stream and half of the neurons stay, with all heads and layers: chosen by activations (L2 over 64 training windows of the mean over 128 tokens) or by lot. Perplexity on 64 held-out windows of 256 tokens.",
        Arms = [ModelBench.DenseArm, Pruned, RandomUnits],
        Metric = ModelBench.PerplexityMetric,
    };

    private static readonly Experiment Training = new()
    {
        Name = "after 100 steps",
        About = "100 steps of 8 × 128 training tokens, the same batches for every arm, AdamW at 1e-3 with a cosine to 0, every parameter; cross-entropy on the same held-out windows. Distilled: the divergence of the student's predictions from the dense model's, without cross-entropy.",
        Arms = [ModelBench.DenseArm, Scratch, Text, Distilled, RandomDistilled],
        Metric = Loss,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Channels and neurons ranked by their activations give a smaller model that a short distillation from the original makes better than one trained from scratch, from a random cut, or on the text alone (Muralidharan et al., arXiv 2407.14679).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Cut, Training];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        model: meta-llama/Llama-3.2-1B
        data: { calibration: allenai/c4:en:train, samples: 1024, train: allenai/c4:en:train, evaluation: Salesforce/wikitext:wikitext-2-raw-v1:test }
        prune: { criterion: minitron, pattern: { method: structured, hidden: 1536, neurons: 4096 } }   # also criterion random; layers; two cuts
        retrain: { method: minitron, steps: 20000, batch: 64, length: 1024 }                           # also { method: perp, subset: full }
        seed: 0                                                                                        # then 1 and 2
        out: ./llama-half
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        int steps = context.Size is RecipeSize.Smoke ? 2 : 100;
        using ModelBench bench = ModelBench.Open(context, seed, samples: 64, calibrationLength: 128);
        using StreamedModel teacher = StreamedModel.Open(bench.Text.Folder);
        var distillation = new Minitron { Steps = steps, Batch = 8, Length = 128, LearningRate = Rate, FinalLearningRate = 0 };
        var source = new PackedTokens(bench.Text.Training, distillation.Batch, distillation.Length.Value, new Seed(seed.For("retraining text")));
        var measured = new List<Measurement>();
        Add(Cut, ModelBench.DenseArm, ModelBench.PerplexityMetric, bench.Dense);
        Add(Training, ModelBench.DenseArm, Loss, Math.Log(bench.Dense));
        foreach (string arm in Training.Arms.Skip(1))
        {
            using var scope = NewDisposeScope();
            using PrunedModel pruned = bench.Prune(PlanOf(teacher.Config, arm == RandomDistilled ? new RandomChoice() : new Minitron()));
            using LanguageModel? fresh = arm == Scratch ? LanguageModel.Random(pruned.Model.Config, seed, context.Device) : null;
            LanguageModel student = fresh ?? pruned.Model;
            if (arm is Distilled or RandomDistilled)
            {
                string cut = arm == Distilled ? Pruned : RandomUnits;
                Add(Cut, cut, ModelBench.PerplexityMetric, bench.Perplexity(student));
                Add(Cut, cut, Kept, student.ParameterCount);
                RecipeTraining.Retrain(distillation, student, source, seed, context, dense: teacher);
            }
            else
            {
                RecipeTraining.OnText(student, source, steps, Rate, context);
            }

            double loss = Math.Log(bench.Perplexity(student));
            Add(Training, arm, Loss, loss);
            Add(Training, arm, Kept, student.ParameterCount);
            context.Progress.Say(FormattableString.Invariant($"  {arm}: loss {loss:F4}"));
        }

        return measured;

        void Add(Experiment experiment, string arm, string metric, double value) => measured.Add(new Measurement(experiment.Name, Experiment.Only, arm, metric, value));
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults cut = results.At(Cut.Name), trained = results.At(Training.Name);
        string perplexity = cut.Values(ModelBench.DenseArm, ModelBench.PerplexityMetric).Average().ToString("F1", CultureInfo.InvariantCulture);
        return
        [
            Check.AtLeast("no step: perplexity of the activation ranking below that of a random cut", cut.PerSeed(m => 100 * (1 - (m(Pruned, ModelBench.PerplexityMetric) / m(RandomUnits, ModelBench.PerplexityMetric)))), 10, "%"),
            Below("loss of the pruned start below that of a random start, both on cross-entropy", Text, Scratch, 1),
            Below("loss of the pruned below that of the random cut, both distilled", Distilled, RandomDistilled, 1),
            Below($"loss of distillation (teacher's perplexity {perplexity}) below that of cross-entropy, both pruned", Distilled, Text, 0.5),
        ];

        Check Below(string statement, string arm, string baseline, double least) =>
            Check.AtLeast(statement, trained.PerSeed(m => 100 * (1 - (m(arm, Loss) / m(baseline, Loss)))), least, "%");
    }

    private static PruningPlan PlanOf(ModelConfig dense, IUnitCriterion criterion) => new()
    {
        Criterion = criterion,
        Pattern = Pattern.Structured(options: new() { Hidden = dense.HiddenSize * 3 / 4, Neurons = dense.IntermediateSize / 2 }),
    };
}
