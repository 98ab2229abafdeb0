using Espalier.Data;
using Espalier.Methods.Adaptation;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>SoMA: adapters that start from the smallest singular components change the large ones less, and do better on domains that were not in training (card, quick reproduction a).</summary>
[Reproduces("soma")]
public sealed class SomaRecipe : Recipe
{
    private const string Unseen = "mean accuracy on unseen domains, %", Source = "accuracy on the source, %", Clean = "accuracy on clean images, %", Top = "change inside the largest components";
    private const string Before = "before", Full = "full", Head = "frozen backbone", Lora = "LoRA", Pissa = "PiSSA", SomaArm = "soma", Unfrozen = "soma, no frozen blocks", Constant = "soma, constant decay";
    private const string Net = "{\"model_type\": \"mlp\", \"hidden\": [512, 512, 256], " + RecipeImages.FashionFields + "}";
    private const int Rank = 8, Batch = 50;

    private static readonly Experiment Domains = new()
    {
        Name = "unseen domains",
        About = "An MLP 784-512-512-256-10 trained on 30,000 images of Fashion-MNIST (6 epochs of AdamW, shifted by up to 2 pixels) is adapted with 2,000 other images on a bright background that grows from left to right; 8 epochs of 50, AdamW, decay 0.05, the rate of each arm the best of three by 1,000 further images of that domain. Unseen domains: rotation by 15°, contrast × 0.5 + 0.2, noise of 0.2, means of 2 × 2 pixels; 3,000 test images of each. r = 8 in all adapters, LoRA with alpha = 16; PiSSA is soma from the largest components, else the same. The head trains in every arm. The change inside the largest components is ‖ΔW·V_8‖, the mean over the maps that soma adapts.",
        Arms = [Before, Full, Head, Lora, Pissa, SomaArm, Unfrozen, Constant],
        Metric = Unseen,
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Adapters that start from the minor singular components, with early blocks frozen and an annealed weight decay, generalise better to unseen domains than those that start from the major ones or from LoRA's start (Yun et al., CVPR 2025).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Domains];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # a ViT on one domain of PACS or OfficeHome, measured on the others, five seeds; also first_eigen=true, start_index=0, final_weight_decay=0.05, and lora
        espalier adapt timm/vit_base_patch14_dinov2 --data ./pacs/photo --eval-data ./pacs/sketch --method soma --set rank=16 --lr 1e-4 --steps 40000 --batch 32 --seed 0 --out ./vit-soma
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        var measured = new List<Measurement>();
        using VisionBench images = VisionBench.Open(context, RecipeImages.Fashion, Net, training: 33_000, test: 3_000);
        (int first, int second) = smoke ? (48, 72) : (30_000, 32_000);
        ImageCorruption style = ImageCorruption.Gradient(0.7);
        using ImageTensors clean = Range(0, first), rest = Range(first, second), held = Range(second, images.TrainingImages.Count);
        using ImageTensors training = style.Apply(rest), validation = style.Apply(held), source = style.Apply(images.TestImages);
        ImageTensors[] unseen = [.. new[] { "rotation:15", "contrast:0.5:0.2", "noise:0.2", "blocks:2" }.Select(w => ImageCorruption.Parse(w).Apply(images.TestImages))];
        try
        {
            using VisionModel start = images.Fresh(seed);
            new VisionTraining(new TrainingOptions { Steps = smoke ? 6 : 6 * (first / 100) }) { Batch = smoke ? 16 : 100, Seed = seed, Augmentation = new ImageAugmentation(2, false) }.Run(start, clean, cancellation: context.Cancellation);
            var bench = new ShiftBench(context, start, training, validation)
            {
                Batch = smoke ? 8 : Batch,
                Options = new TrainingOptions { Steps = smoke ? 4 : 8 * (training.Count / Batch), WeightDecay = 0.05 },
            };
            foreach ((string metric, double value) in Accuracies(start))
            {
                measured.Add(new Measurement(Domains.Name, Experiment.Only, Before, metric, value));
            }

            foreach (TunedArm arm in Arms(smoke))
            {
                measured.AddRange(bench.Run(arm, seed, (net, result) => [.. Accuracies(net), .. Changes(start, net, result)]).Select(f => new Measurement(Domains.Name, Experiment.Only, arm.Name, f.Metric, f.Value)));
            }

            IEnumerable<(string, double)> Accuracies(VisionModel net) =>
                [(Unseen, unseen.Average(u => bench.Accuracy(net, u))), (Source, bench.Accuracy(net, source)), (Clean, bench.Accuracy(net, images.TestImages))];
        }
        finally
        {
            foreach (ImageTensors domain in unseen)
            {
                domain.Dispose();
            }
        }

        return measured;

        ImageTensors Range(int from, int to) => images.TrainingImages.Take([.. Enumerable.Range(from, to - from)]);
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults domains = results.At(Domains.Name);
        return
        [
            Check.AtLeast("soma above PiSSA on unseen domains", domains.PerSeed(m => m(SomaArm, Unseen) - m(Pissa, Unseen)), 0.5, "points"),
            Check.AtMost("… with accuracies on the source that differ by", domains.PerSeed(m => Math.Abs(m(SomaArm, Source) - m(Pissa, Source))), 1, "points"),
            Check.AtLeast("soma above LoRA on unseen domains", domains.PerSeed(m => m(SomaArm, Unseen) - m(Lora, Unseen)), -0.3, "points"),
            .. Maps(1).Select(map => Check.AtMost($"change inside the largest components of {map}, soma over PiSSA", domains.Ratio(ChangeOf(map), SomaArm, Pissa), 1, everySeed: true)),
        ];
    }

    private static IEnumerable<TunedArm> Arms(bool smoke)
    {
        double[] rates = [1e-3, 3e-3, 1e-2];
        var soma = new Soma { Rank = Rank };
        TunedArm[] arms =
        [
            new(Full, new PlainTuning("*"), [3e-4, 1e-3, 3e-3]),
            new(Head, new PlainTuning("head"), rates),
            new(Lora, new Lora { Rank = Rank, Alpha = 2 * Rank, Train = ["head"] }, rates),
            new(Pissa, soma with { FirstEigen = true }, rates),
            new(SomaArm, soma, rates),
            new(Unfrozen, soma with { StartIndex = 0 }, rates),
            new(Constant, soma with { FinalWeightDecay = soma.WeightDecay }, rates),
        ];
        return smoke ? arms.Select(a => a with { Rates = [a.Rates[1]] }) : arms;
    }

    private static IEnumerable<string> Maps(int first) => Enumerable.Range(first + 1, 3 - first).Select(i => $"fc{i}");

    private static string ChangeOf(string map) => $"{Top}, {map}";

    /// <summary>‖ΔW·V_8‖ of the maps that soma adapts: how far the net moved along what it did most.</summary>
    private static List<(string, double)> Changes(VisionModel before, VisionModel after, AdaptationResult result)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        result.Adapter.Merge();
        var changes = new List<(string Metric, double Value)>();
        foreach (string map in Maps(1))
        {
            Tensor own = NetWeight.Of(before).Single(w => w.Module == map).Matrix(), changed = NetWeight.Of(after).Single(w => w.Module == map).Matrix();
            ThinSvd largest = ThinSvd.Of(own).Part(0, Rank);
            changes.Add((ChangeOf(map), (changed - own).to(ScalarType.Float64).mm(largest.Vt.t()).norm().item<double>()));
        }

        return [(Top, changes.Average(c => c.Value)), .. changes];
    }
}
