using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Merging;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>Magnitude: one ranking over the whole net beats equal shares of each layer (card, quick reproduction).</summary>
[Reproduces("magnitude")]
public sealed class MagnitudeRecipe : Recipe
{
    private const string Dense = "dense", Global = "global", Uniform = "uniform", Accuracy = "test accuracy, %", Mean = "mean of the nets";
    private static readonly int[] depths = [20, 32, 44, 56];
    private static readonly double[] sparsities = [0.6, 0.7, 0.8];

    private static readonly Experiment Nets = new()
    {
        Name = "pretrained ResNets",
        About = "akamaster/cifar10-resnet20, 32, 44 and 56 on the first 2,000 test images of CIFAR-10 (a copy that went through JPEG); all convolutions and linear maps pruned once by |w|, in one ranking or each layer alike, no retraining. The nets are the replicates: nothing depends on the seed.",
        Arms = [Dense, Global, Uniform],
        Settings = [.. sparsities.SelectMany(s => depths.Select(d => Setting(s, $"ResNet-{d}")).Append(Setting(s, Mean)))],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim => "At 70 and 80 % zeros, pruning the smallest weights of the whole net leaves more accuracy than pruning each layer alike (Han et al. 2015 and everyone since).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Nets];

    /// <inheritdoc/>
    public override bool DependsOnSeed => false;

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # pruning and retraining in turns to 90 %, ResNet-56, seeds 0, 1, 2; also selector=uniform
        espalier train --config akamaster/cifar10-resnet56 --data uoft-cs/cifar10:train --eval-data uoft-cs/cifar10:test --augment cifar --batch 128 --optimizer sgd \
            --momentum 0.9 --nesterov --weight-decay 1e-4 --lr 0.05 --steps 3900 --method perp --set subset=full --set sparsity=0.9 --seed 0 --out ./sparse
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using ImageTensors test = RecipeImages.Cifar.Load(context, "test", 2_000);
        var measured = new List<Measurement>();
        foreach (int depth in depths)
        {
            using VisionModel dense = RecipeImages.CifarNet(context, seed, depth);
            double start = ImageAccuracy.Evaluate(dense, test).Top1;
            foreach (double sparsity in sparsities)
            {
                string setting = Setting(sparsity, $"ResNet-{depth}");
                Add(setting, Dense, start);
                Add(setting, Global, Pruned(MagnitudeSelector.Global));
                Add(setting, Uniform, Pruned(MagnitudeSelector.Uniform));

                double Pruned(MagnitudeSelector selector)
                {
                    using var scope = NewDisposeScope();
                    using VisionModel net = dense.Clone();
                    MagnitudePruning.Prune(net, MagnitudePruning.All(net), sparsity, selector, seed);
                    return ImageAccuracy.Evaluate(net, test, cancellation: context.Cancellation).Top1;
                }
            }
        }

        foreach (double sparsity in sparsities)
        {
            foreach (string arm in Nets.Arms)
            {
                Add(Setting(sparsity, Mean), arm, measured.Where(m => m.Arm == arm && depths.Any(d => m.Setting == Setting(sparsity, $"ResNet-{d}"))).Average(m => m.Value));
            }
        }

        return measured;

        void Add(string setting, string arm, double value)
        {
            measured.Add(new Measurement(Nets.Name, setting, arm, Accuracy, value));
            context.Progress.Say(FormattableString.Invariant($"  {setting}, {arm}: {value:F2} %"));
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results) =>
        [.. new[] { 0.7, 0.8 }.Select(s => Setting(s, Mean)).Select(s => Check.AtLeast($"{s}: accuracy of global above uniform", results.At(Nets.Name, s).PerSeed(m => m(Global, Accuracy) - m(Uniform, Accuracy)), 5, "points"))];

    private static string Setting(double sparsity, string net) => FormattableString.Invariant($"{100 * sparsity:0} %, {net}");
}
