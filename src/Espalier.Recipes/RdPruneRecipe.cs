using Espalier.Evaluation;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Pruning.Measuring;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>
/// RD-Prune: shares by measured distortion and a dynamic program beat rules of thumb, because distortions add up: on a pretrained
/// ResNet (card, quick reproduction) and on a language model.
/// </summary>
[Reproduces("rdprune")]
public sealed partial class RdPruneRecipe : Recipe
{
    private const string Worst = "rdprune, worst case", Mean = "rdprune, mean", Lamp = "lamp", Global = "global", Erk = "erk", UniformPlus = "uniform+", Uniform = "uniform";
    private const int Vectors = 30, AdditivitySequences = 8;

    private static readonly Experiment Language = new()
    {
        Name = "language model",
        About = "Magnitude, one-shot, within layers at the allocator's shares; curves of 20 levels, the last capped, on 16 calibration windows of 128 tokens; perplexity on 96 held-out windows of 128 tokens.",
        Arms = ["dense", Worst, Mean, Lamp, Global, Erk, UniformPlus, Uniform],
        Settings = ["50 %", "60 %", "70 %", "80 %"],
        Metric = ModelBench.PerplexityMetric,
    };

    private static readonly Experiment Additivity = new()
    {
        Name = "additivity",
        About = "The mean distortion of the logits when all layers are pruned together at random shares of at most 50 %, against the sum of the distortions of each layer pruned alone, over 30 random vectors of shares.",
        Arms = ["summed against joint"],
        Metric = "correlation",
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "The distortion of a network's output is about the sum of the distortions that pruning each layer alone causes, so shares that minimise this sum beat uniform, ERK and LAMP shares (Xu et al., ICCV 2023).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Vision, VisionAdditivity, Language, Additivity];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # ResNet-32 on CIFAR-10 to 95.5 % in 14 iterations, seeds 0, 1, 2:
        # espalier train --config akamaster/cifar10-resnet32 --data uoft-cs/cifar10:train --eval-data uoft-cs/cifar10:test --augment cifar --batch 100 --lr 3e-4 --schedule constant \
        #     --steps 5700 --method rdprune --set sparsity=0.955 --set iterations=14 --set levels=100 --set samples=1024 --seed 0 --out ./sparse
        model: meta-llama/Llama-3.2-1B
        data: { calibration: allenai/c4:en:train, samples: 64, evaluation: Salesforce/wikitext:wikitext-2-raw-v1:test }
        prune: { criterion: magnitude, sparsity: 0.5, allocator: { method: rdprune, levels: 100, samples: 64 } }   # also erk, global, uniform; 0.6 and 0.7
        seed: 0                                                                                                    # then 1 and 2
        out: ./llama-rdprune-50
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        using ModelBench bench = ModelBench.Open(context, seed, samples: 16, windows: 96, length: 128);
        Measurements worst = Curves(worstCase: true), mean = Curves(worstCase: false);
        using LanguageModel dense = LanguageModel.Load(bench.Text.Folder, context.Device);
        IReadOnlyList<Measurement> compared = bench.Compare(Language, (arm, setting) => Plan(ModelBench.PatternOf(setting), arm switch
        {
            Worst => (IAllocator)new RdPrune().With(worst),
            Mean => (IAllocator)new RdPrune { WorstCase = false }.With(mean),
            Lamp => new Shares(layers => RdPrune.LampAmounts(Weights(dense), layers)),
            Global => new GlobalRanking(),
            Erk => new Sparsity.Erk(),
            UniformPlus => new Shares(layers => RdPrune.UniformPlusAmounts(Weights(dense), layers)),
            _ => new Sparsity.Uniform(),
        }));
        return [.. RunVision(context, seed), .. compared, new Measurement(Additivity.Name, Experiment.Only, Additivity.Arms[0], Additivity.Metric, Added(dense, bench, mean, seed, smoke ? 3 : Vectors))];

        Measurements Curves(bool worstCase)
        {
            var part = new RdPrune { Levels = smoke ? 10 : 20, WorstCase = worstCase };
            return bench.Measure(part, Plan(Pattern.Unstructured(0.5), part));
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results) =>
    [
        Check.AtLeast("ResNet-20, 70 %: accuracy of worst-case RD-Prune above uniform's", results.At(Vision.Name, "70 %").PerSeed(m => m(Worst, Accuracy) - m(Uniform, Accuracy)), 5, "points"),
        Check.AtLeast("ResNet-20, 70 %: accuracy of worst-case RD-Prune above LAMP's", results.At(Vision.Name, "70 %").PerSeed(m => m(Worst, Accuracy) - m(Lamp, Accuracy)), -0.5, "points"),
        Check.AtLeast("ResNet-20: correlation of summed and joint distortion", results.At(VisionAdditivity.Name).Values(VisionAdditivity.Arms[0], VisionAdditivity.Metric), 0.9),
        Check.AtMost("language model, 70 %: rise of log-perplexity of worst-case RD-Prune over uniform's", results.At(Language.Name, "70 %").Ratio(ModelBench.Rise, Worst, Uniform), 0.9),
        Check.AtMost("language model, 70 %: rise of log-perplexity of worst-case RD-Prune over LAMP's", results.At(Language.Name, "70 %").Ratio(ModelBench.Rise, Worst, Lamp), 1.02),
        Check.AtLeast("language model: correlation of summed and joint distortion", results.At(Additivity.Name).Values(Additivity.Arms[0], Additivity.Metric), 0.9),
    ];

    private static PruningPlan Plan(Pattern pattern, IAllocator allocator) => new() { Criterion = new Magnitude(), Pattern = pattern, Allocator = allocator };

    private static Tensor[] Weights(LanguageModel model) => [.. model.Blocks.SelectMany(b => b.Linears).Select(l => (Tensor)l.Linear.weight)];

    // Prunes all layers at random shares and compares with the sum of what the curves say of each alone.
    private static double Added(LanguageModel model, ModelBench bench, Measurements curves, Seed seed, int vectors)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        BlockLinear[] linears = [.. model.Blocks.SelectMany(b => b.Linears)];
        float[][] distortion = [.. linears.Select(l => { using Tensor curve = curves.Read(l.Name); return curve.data<float>().ToArray(); })];
        int levels = distortion[0].Length - 1;
        Tensor[] weights = [.. linears.Select(l => l.Linear.Matrix.detach().clone())];
        Tensor ids = stack([.. bench.Calibration.Take(AdditivitySequences).Select(w => tensor(w, device: weights[0].device))]);
        Tensor reference = model.Logits(ids);
        Random random = seed.Random("shares");
        var summed = new List<double>();
        var joint = new List<double>();
        for (int v = 0; v < vectors; v++)
        {
            using var step = NewDisposeScope();
            double sum = 0;
            for (int l = 0; l < linears.Length; l++)
            {
                int level = random.Next((levels / 2) + 1);
                sum += distortion[l][level];
                linears[l].Linear.SetMatrix(MaskSelection.Apply(weights[l], MaskSelection.KeepLargestPerLayer(weights[l].abs(), (double)level / levels, linears[l].Name)));
            }

            summed.Add(sum);
            joint.Add((model.Logits(ids) - reference).square().mean().item<float>());
        }

        return Correlation.Pearson(summed, joint);
    }

    /// <summary>Shares that a rule of thumb computes from the weights.</summary>
    private sealed class Shares(Func<double, IReadOnlyList<double>> rule) : IAllocator
    {
        public IReadOnlyList<double> Allocate(IReadOnlyList<AllocatedLayer> layers, double sparsity) => rule(sparsity);
    }
}
