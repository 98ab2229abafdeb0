using Espalier.Data;
using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>SVFit: a few hundred singular values do what LoRA does where the shift is mild, and cannot where it needs other directions (card, quick reproduction a).</summary>
[Reproduces("svfit")]
public sealed class SvFitRecipe : Recipe
{
    private const string Shifted = "accuracy on the shifted images, %", Source = "accuracy kept on the source, %", Frozen = "frozen factors";
    private const string Before = "before", Full = "full", Head = "head only", Lora8 = "LoRA, r = 8", Lora1 = "LoRA, r = 1", SvFitAll = "svfit", SvFit64 = "svfit, r = 64", SvFitEnergy = "svfit, 99 % of the energy", Basis = "random basis";
    private const string Mild = "contrast", Hard = "rotation";
    private const string Net = "{\"model_type\": \"mlp\", \"hidden\": [256, 256], " + RecipeImages.FashionFields + "}";
    private const int Batch = 50;

    private static readonly Experiment Shifts = new()
    {
        Name = "domain shifts",
        About = "An MLP 784-256-256-10 trained on 20,000 upright images of Fashion-MNIST (5 epochs of AdamW) is adapted with 2,000 other images of a shifted domain: contrast (x → 0.35x + 0.3) or rotation by 15°; 10 epochs of 50, AdamW, linear schedule, the rate of each arm the best of three by 1,000 further images. The head trains in every arm. Svfit and the random basis (random orthonormal factors in place of the singular vectors) train all singular values (512) but where a rank is said. Accuracy on 5,000 test images.",
        Arms = [Before, Full, Head, Lora8, Lora1, SvFitAll, SvFit64, SvFitEnergy, Basis],
        Settings = [Mild, Hard],
        Metric = Shifted,
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim => "Training only the largest singular values of each weight does better than LoRA with 16 times fewer parameters (Sun et al., arXiv 2409.05926); here: within a point of it on a mild shift.";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Shifts];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # ViT-B on CIFAR-100 and Flowers-102, five seeds, against lora with rank=8
        espalier adapt google/vit-base-patch16-224-in21k --data uoft-cs/cifar100:train --eval-data uoft-cs/cifar100:test --method svfit --set fraction=0.99 --set train=head \
            --lr 1e-2 --steps 7810 --batch 64 --seed 0 --out ./vit-svfit
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        var measured = new List<Measurement>();
        using VisionBench images = VisionBench.Open(context, RecipeImages.Fashion, Net, training: 23_000, test: 5_000);
        (int first, int second) = smoke ? (48, 72) : (20_000, 22_000);
        using ImageTensors upright = Range(0, first), rest = Range(first, second), held = Range(second, images.TrainingImages.Count);
        using VisionModel start = images.Fresh(seed);
        new VisionTraining(new TrainingOptions { Steps = smoke ? 10 : 5 * (first / 100) }) { Batch = smoke ? 16 : 100, Seed = seed }.Run(start, upright, cancellation: context.Cancellation);
        foreach ((string setting, ImageCorruption shift) in new[] { (Mild, ImageCorruption.Contrast()), (Hard, ImageCorruption.Rotation(15)) })
        {
            using ImageTensors training = shift.Apply(rest), validation = shift.Apply(held), test = shift.Apply(images.TestImages);
            var bench = new ShiftBench(context, start, training, validation)
            {
                Batch = smoke ? 8 : Batch,
                Options = new TrainingOptions { Steps = smoke ? 4 : 10 * (training.Count / Batch), Schedule = "linear" },
            };
            measured.Add(new Measurement(Shifts.Name, setting, Before, Shifted, bench.Accuracy(start, test)));
            measured.Add(new Measurement(Shifts.Name, setting, Before, Source, bench.Accuracy(start, images.TestImages)));
            foreach (TunedArm arm in Arms(smoke))
            {
                measured.AddRange(bench.Run(arm, seed, Figures).Select(f => new Measurement(Shifts.Name, setting, arm.Name, f.Metric, f.Value)));
            }

            IEnumerable<(string, double)> Figures(VisionModel net, AdaptationResult result)
            {
                yield return (Shifted, bench.Accuracy(net, test));
                yield return (Source, bench.Accuracy(net, images.TestImages));
                yield return (Frozen, result.Adapter is WeightAdaptationRun run ? run.Adapters.OfType<SvFitAdapter>().Sum(a => a.BufferCount) : 0);
            }
        }

        return measured;

        ImageTensors Range(int from, int to) => images.TrainingImages.Take([.. Enumerable.Range(from, to - from)]);
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults mild = results.At(Shifts.Name, Mild), hard = results.At(Shifts.Name, Hard);
        return
        [
            Check.AtLeast("contrast: svfit above LoRA with r = 8", mild.PerSeed(m => m(SvFitAll, Shifted) - m(Lora8, Shifted)), -1, "points"),
            Check.AtMost("… with so many of its trained parameters, the head left out", mild.PerSeed(m => 100 * Adapter(m, SvFitAll) / Adapter(m, Lora8)), 100 / 16.0, "%"),
            Check.AtLeast("rotation: svfit above LoRA with r = 1", hard.PerSeed(m => m(SvFitAll, Shifted) - m(Lora1, Shifted)), 0, "points"),
            Check.AtLeast("rotation: svfit above the head alone", hard.PerSeed(m => m(SvFitAll, Shifted) - m(Head, Shifted)), 1, "points"),
        ];

        static double Adapter(Func<string, string, double> m, string arm) => m(arm, ShiftBench.Trained) - m(Head, ShiftBench.Trained);
    }

    private static IEnumerable<TunedArm> Arms(bool smoke)
    {
        string[] head = ["head"];
        TunedArm[] arms =
        [
            new(Full, new PlainTuning("*"), [3e-4, 1e-3, 3e-3]),
            new(Head, new PlainTuning(head), [3e-3, 1e-2, 3e-2]),
            new(Lora8, new Lora { Rank = 8, Alpha = 16, Train = head }, [3e-3, 1e-2, 3e-2]),
            new(Lora1, new Lora { Rank = 1, Alpha = 2, Train = head }, [3e-3, 1e-2, 3e-2]),
            new(SvFitAll, new SvFit { Fraction = 1, Train = head }, [1e-2, 3e-2, 1e-1]),
            new(SvFit64, new SvFit { Rank = 64, Train = head }, [1e-2, 3e-2, 1e-1]),
            new(SvFitEnergy, new SvFit { Train = head }, [1e-2, 3e-2, 1e-1]),
            new(Basis, new RandomBasis { Train = head }, [1e-2, 3e-2, 1e-1]),
        ];
        return smoke ? arms.Select(a => a with { Rates = [a.Rates[1]] }) : arms;
    }

    /// <summary>The control: U and V are random orthonormal bases instead of the singular vectors, and s starts as diag(Uᵀ·W·V).</summary>
    private sealed record RandomBasis : WeightAdaptation
    {
        protected override IReadOnlyList<ILinearAdapter> Make(AdaptationContext context, IReadOnlyList<NetWeight> targets)
        {
            var adapters = new List<ILinearAdapter>();
            foreach (NetWeight target in targets)
            {
                using var scope = NewDisposeScope();
                using Generator generator = context.Seed.Generator($"random basis of {target.Name}");
                Tensor matrix = target.Matrix();
                long rank = Math.Min(target.Rows, target.Columns);
                (Tensor u, _) = linalg.qr(randn([target.Rows, rank], generator: generator));
                (Tensor v, _) = linalg.qr(randn([target.Columns, rank], generator: generator));
                Tensor s = u.t().mm(matrix).mm(v).diag();
                adapters.Add(new SvFitAdapter(u, s, v.t(), s));
            }

            return adapters;
        }
    }
}
