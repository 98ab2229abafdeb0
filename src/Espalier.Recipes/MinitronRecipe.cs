using Espalier.Data;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;

namespace Espalier.Recipes;

/// <summary>Minitron: a cut model starts far ahead of a new one, activations tell what to cut, and the teacher's predictions retrain better than text (card, quick reproduction).</summary>
[Reproduces("minitron")]
public sealed class MinitronRecipe : Recipe
{
    private const string FromScratch = "random weights, text", OnText = "pruned, text", Distilled = "pruned, teacher", ByLot = "cut by lot, teacher";
    private const string Loss = "loss", Before = "perplexity without a step", Teacher = "teacher's perplexity";
    private const double Rate = 1e-3;

    private static readonly Experiment Retrained = new()
    {
        Name = "language model",
        About = "Half of the neurons and a quarter of the channels of the residual stream are cut, heads and layers stay; ranked by activations over 64 windows of 128 tokens (mean over tokens, L2 over windows) or by lot. 100 steps of 8 × 128 tokens, the same batches for every arm, AdamW at 1e-3 with a cosine, every parameter; cross-entropy with the text or the divergence from the dense model's predictions. Loss: cross-entropy on 64 held-out windows of 128 tokens.",
        Arms = ["dense", FromScratch, OnText, Distilled, ByLot],
        Metric = Loss,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Cutting a trained model by the activations of its neurons and channels and retraining it briefly with the original as teacher beats training the small model from scratch, cutting by lot, and retraining on text alone (Muralidharan et al., arXiv 2407.14679).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Retrained];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        model: meta-llama/Llama-3.2-1B
        data: { calibration: allenai/c4:en:train, samples: 1024, evaluation: Salesforce/wikitext:wikitext-2-raw-v1:test }
        prune: { criterion: minitron, pattern: { method: structured, hidden: 1536, neurons: 4096 } }   # also criterion random; espalier search for the sizes
        retrain: { method: minitron, steps: 20000, batch: 256, length: 2048 }                          # also perp with subset full
        seed: 0                                                                                        # then 1 and 2
        out: ./llama-minitron
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        int steps = context.Size is RecipeSize.Smoke ? 2 : 100;
        using ModelBench bench = ModelBench.Open(context, seed, samples: 64, windows: 64, length: 128);
        using StreamedModel teacher = StreamedModel.Open(bench.Text.Folder);
        var source = new PackedTokens(bench.Text.Training, batch: 8, length: 128, new Seed(seed.For("retraining text")));
        Pattern half = Pattern.Structured(options: new() { Hidden = teacher.Config.HiddenSize * 3 / 4, Neurons = teacher.Config.IntermediateSize / 2, Round = 1 });
        var measured = new List<Measurement>
        {
            new(Retrained.Name, Experiment.Only, "dense", Loss, Math.Log(bench.Dense)),
            new(Retrained.Name, Experiment.Only, "dense", Teacher, bench.Dense),
        };
        ModelConfig small;
        using (PrunedModel pruned = Cut(new Minitron()))
        {
            small = pruned.Model.Config;
            Add(OnText, Before, bench.Perplexity(pruned.Model));
            RecipeTraining.Continue(pruned.Model, source, steps, Rate, context);
            Trained(OnText, pruned.Model);
        }

        using (PrunedModel pruned = Cut(new Minitron()))
        {
            Distil(pruned.Model);
            Trained(Distilled, pruned.Model);
        }

        using (PrunedModel pruned = Cut(new RandomChoice()))
        {
            Add(ByLot, Before, bench.Perplexity(pruned.Model));
            Distil(pruned.Model);
            Trained(ByLot, pruned.Model);
        }

        using (LanguageModel fresh = LanguageModel.Random(small, seed, context.Device))
        {
            Add(FromScratch, Before, bench.Perplexity(fresh));
            RecipeTraining.Continue(fresh, source, steps, Rate, context);
            Trained(FromScratch, fresh);
        }

        return measured;

        PrunedModel Cut(ICriterion criterion) => bench.Prune(new PruningPlan { Criterion = criterion, Pattern = half });

        void Distil(LanguageModel student) => RecipeTraining.WithState(state =>
            new Minitron { Steps = steps, Batch = 8, Length = 128, LearningRate = Rate, FinalLearningRate = 0, WarmupFraction = 0 }.Retrain(new RetrainingContext
            {
                Model = student,
                Dense = teacher,
                Masks = new Dictionary<string, SparsityMask>(),
                Batches = (step, _) => source.Batch(step).to(context.Device),
                Seed = seed,
                StateFolder = state,
                Progress = SilentProgress.Instance,
                Cancellation = context.Cancellation,
            }));

        void Trained(string arm, LanguageModel model)
        {
            double loss = Math.Log(bench.Perplexity(model));
            Add(arm, Loss, loss);
            context.Progress.Say(FormattableString.Invariant($"  {arm}: loss {loss:F4}"));
        }

        void Add(string arm, string metric, double value) => measured.Add(new Measurement(Retrained.Name, Experiment.Only, arm, metric, value));
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults measured = results.At(Retrained.Name);
        return
        [
            Check.AtMost("perplexity without a step: cut by activations over cut by lot", measured.Ratio(Before, OnText, ByLot), 0.9),
            Check.AtMost("loss of the cut model over that of a new one, both on text", measured.Ratio(Loss, OnText, FromScratch), 0.99),
            Check.AtMost("loss under the teacher: cut by activations over cut by lot", measured.Ratio(Loss, Distilled, ByLot), 0.99),
            Check.AtMost("loss of the cut model: under the teacher over on text", measured.Ratio(Loss, Distilled, OnText), 0.995),
        ];
    }
}
