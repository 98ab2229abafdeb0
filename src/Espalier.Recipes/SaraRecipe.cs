using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>SaRA: the smallest weights hardly matter, and training only them adapts a net while it keeps what it could do (card, quick reproduction, parts 1 and 2).</summary>
[Reproduces("sara")]
public sealed class SaraRecipe : Recipe
{
    private const string Untouched = "untouched", Smallest10 = "smallest 10 %", Smallest20 = "smallest 20 %", Random10 = "random 10 %", Largest10 = "largest 10 %";
    private const string Vision = "ResNet-20", Text = "Llama", Loss = "loss", Figure = "accuracy or perplexity";
    private const string Before = "before", Full = "full", LoraArm = "LoRA", SaraArm = "sara", NoRank = "sara, no rank loss", NoShrink = "sara, no progressive adjustment";
    private const string New = "accuracy on the new domain, %", Old = "accuracy kept on the old, %", Last = "trained at the end";

    private static readonly Experiment Importance = new()
    {
        Name = "what the smallest weights are worth",
        About = "All convolutions and linear maps (the head included, embeddings and norms not) of a trained net: those weights are set to zero that are smallest in one ranking of the whole net, or as many at random, or the largest. ResNet-20 (akamaster/cifar10-resnet20) on the first 2,000 test images of CIFAR-10: points of accuracy lost. The default Llama of 2.8 million parameters on 64 held-out windows of 128 tokens: rise of the perplexity in per cent.",
        Arms = [Untouched, Smallest10, Smallest20, Random10, Largest10],
        Settings = [Vision, Text],
        Metric = Loss,
    };

    private static readonly Experiment Adapting = new()
    {
        Name = "a new domain",
        About = "The same ResNet-20 adapted to CIFAR-10 turned by 30°: 1,000 training images, 60 steps of 64, the rate down to 0 linearly, batch norms' statistics as they were; the rate of full, LoRA and sara is the best of three by 1,000 further images of the new domain, its variants have 3e-3. Sara trains 10 % of all parameters (θ by ratio; its rank loss acts on convolutions as matrices whose smaller side is above 16), LoRA has r = 4 on every convolution as [out, in·9]. 1,000 test images of each domain.",
        Arms = [Before, Full, LoraArm, SaraArm, NoRank, NoShrink],
        Metric = New,
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "The weights of smallest absolute value contribute almost nothing, and fine-tuning only them learns the new while it keeps more of the old than LoRA or full fine-tuning (Hu et al., arXiv 2409.06633).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Importance, Adapting];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # a language model on one kind of text: perplexity on it and on the old text, against lora of equal size, three seeds
        espalier adapt meta-llama/Llama-3.2-1B --data stanfordnlp/imdb:plain_text:train --eval-data stanfordnlp/imdb:plain_text:test --method sara --set ratio=0.1 \
            --set rate_by_threshold=false --lr 5e-4 --steps 5000 --batch 8 --length 512 --seed 0 --out ./llama-sara
        # the paper's own run, SD 1.5 on one style set for 5000 steps with FID and CLIP score, needs a diffusion U-Net, which espalier has not
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed) => [.. OfVision(context, seed), .. OfText(context, seed), .. Adapt(context, seed)];

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults vision = results.At(Importance.Name, Vision), text = results.At(Importance.Name, Text), adapting = results.At(Adapting.Name);
        return
        [
            Check.AtMost("ResNet-20: accuracy lost without the smallest 10 %", vision.Values(Smallest10, Loss), 1, "points"),
            Check.AtMost("Llama: rise of the perplexity without the smallest 10 %", text.Values(Smallest10, Loss), 2, "%"),
            Check.AtLeast("ResNet-20: random 10 % cost that of the smallest 10 %, at least 0.1 points, times", vision.PerSeed(m => m(Random10, Loss) / Math.Max(0.1, m(Smallest10, Loss))), 3),
            Check.AtLeast("Llama: random 10 % cost that of the smallest 10 %, at least 0.01 %, times", text.PerSeed(m => m(Random10, Loss) / Math.Max(0.01, m(Smallest10, Loss))), 3),
            Check.AtLeast("new domain: sara above LoRA", adapting.PerSeed(m => m(SaraArm, New) - m(LoraArm, New)), -1, "points"),
            Check.AtMost("old domain: what sara loses over what full fine-tuning loses", adapting.PerSeed(m => Lost(m, SaraArm) / Math.Max(0.1, Lost(m, Full))), 0.9),
            Check.AtMost("old domain: what sara loses less what LoRA loses", adapting.PerSeed(m => Lost(m, SaraArm) - Lost(m, LoraArm)), 0, "points"),
        ];

        static double Lost(Func<string, string, double> m, string arm) => m(Before, Old) - m(arm, Old);
    }

    private static List<Measurement> OfVision(RecipeContext context, Seed seed)
    {
        using ImageTensors test = RecipeImages.Cifar.Load(context, "test", 2_000);
        return Without(Vision, seed, () => RecipeImages.CifarNet(context, seed), NetWeight.Of, net => ImageAccuracy.Evaluate(net, test).Top1, (before, after) => before - after);
    }

    private static List<Measurement> OfText(RecipeContext context, Seed seed)
    {
        using RecipeText text = RecipeText.For(context, windows: context.Size is RecipeSize.Smoke ? 2 : 64, windowLength: 128);
        return Without(
            Text, seed, () => LanguageModel.Load(text.Folder, context.Device), m => NetWeight.HeadOf(m) is { } head ? [.. NetWeight.Of(m), head] : NetWeight.Of(m),
            m => Perplexity.Evaluate(m, text.Windows, cancellation: context.Cancellation).Value, (before, after) => 100 * ((after / before) - 1));
    }

    private static List<Measurement> Without<TNet>(string setting, Seed seed, Func<TNet> load, Func<TNet, IReadOnlyList<NetWeight>> weights, Func<TNet, double> figure, Func<double, double, double> loss)
        where TNet : IDisposable
    {
        var measured = new List<Measurement>();
        double before = 0;
        foreach (string arm in Importance.Arms)
        {
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            using TNet net = load();
            Zero(weights(net), arm, seed);
            double now = figure(net);
            before = arm == Untouched ? now : before;
            measured.Add(new Measurement(Importance.Name, setting, arm, Figure, now));
            measured.Add(new Measurement(Importance.Name, setting, arm, Loss, loss(before, now)));
        }

        return measured;
    }

    private static void Zero(IReadOnlyList<NetWeight> weights, string arm, Seed seed)
    {
        if (arm == Untouched)
        {
            return;
        }

        Tensor[] values = [.. weights.Select(w => w.Value.detach())];
        using Generator generator = seed.Generator("random weights to be zeroed");
        double threshold = Sara.ThresholdFor(values, arm switch { Smallest20 => 0.2, Largest10 => 0.9, _ => 0.1 });
        foreach (Tensor value in values)
        {
            Tensor gone = arm switch
            {
                Random10 => rand(value.shape, generator: generator).lt(0.1),
                Largest10 => Sara.Select(value, threshold).logical_not(),
                _ => Sara.Select(value, threshold),
            };
            value.masked_fill_(gone.to(value.device), 0);
        }
    }

    private static List<Measurement> Adapt(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        using ImageTensors all = RecipeImages.Cifar.Load(context, "train", 3_000), test = RecipeImages.Cifar.Load(context, "test", 1_000);
        int count = smoke ? 24 : 1_000;
        int[] order = [.. Enumerable.Range(0, all.Count)];
        seed.Random("images of the new domain").Shuffle(order);
        ImageCorruption turned = ImageCorruption.Rotation(30);
        using ImageTensors some = all.Take(order[..count]), held = all.Take(order[count..(2 * count)]), training = turned.Apply(some), validation = turned.Apply(held), fresh = turned.Apply(test);
        using VisionModel start = RecipeImages.CifarNet(context, seed);
        var bench = new ShiftBench(context, start, training, validation) { Batch = smoke ? 8 : 64, Options = new TrainingOptions { Steps = smoke ? 2 : 60 } };
        List<Measurement> measured =
        [
            new(Adapting.Name, Experiment.Only, Before, New, bench.Accuracy(start, fresh)),
            new(Adapting.Name, Experiment.Only, Before, Old, bench.Accuracy(start, test)),
        ];
        var sara = new Sara { Ratio = 0.1, RateByThreshold = false, RankOfConvolutions = true, RankAboveSide = 16 };
        TunedArm[] arms =
        [
            new(Full, new PlainTuning("*"), [3e-4, 1e-3, 3e-3]),
            new(LoraArm, new Lora { Rank = 4, Alpha = 8 }, [1e-3, 3e-3, 1e-2]),
            new(SaraArm, sara, [1e-3, 3e-3, 1e-2]),
            new(NoRank, sara with { LambdaRank = 0 }, [3e-3]),
            new(NoShrink, sara with { ProgressiveStep = -1 }, [3e-3]),
        ];
        foreach (TunedArm arm in arms)
        {
            measured.AddRange(bench.Run(arm, seed, (net, result) =>
            [
                (New, bench.Accuracy(net, fresh)), (Old, bench.Accuracy(net, test)), (Last, result.Adapter is SaraRun run ? run.TrainedAtTheEnd : result.TrainedParameters),
            ]).Select(f => new Measurement(Adapting.Name, Experiment.Only, arm.Name, f.Metric, f.Value)));
        }

        return measured;
    }
}
