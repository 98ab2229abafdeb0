using Espalier.Methods.Quantization;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Recipes;

/// <summary>OFQ: scales from statistics, the query–key product and annealing make low-bit weights of a ViT oscillate less (card, quick reproduction).</summary>
[Reproduces("ofq")]
public sealed class OfqRecipe : Recipe
{
    private const string Accuracy = "test accuracy, %", Events = "oscillations per million weights and step", Share = "oscillating weights, %", Free = "weights left free, %";
    private const string Float = "float", Lsq = "LSQ weights", Halves = "LSQ on StatsQ's levels", StatsQ = "StatsQ", Qkr = "StatsQ + QKR", Continued = "StatsQ + QKR, continued", Annealed = "StatsQ + QKR, annealed";
    private const string Config = "{\"model_type\": \"timm_vit\", \"patch_size\": 7, \"embed_dim\": 64, \"depth\": 4, \"num_heads\": 2, " + RecipeImages.FashionFields + "}";
    private const int Batch = 64, LastSteps = 200;

    private static readonly Experiment Vit = new()
    {
        Name = "a small ViT",
        About = "10,000 images of Fashion-MNIST, a ViT of 4 blocks, width 64, 2 heads, patches of 7 pixels; 10 epochs in float (AdamW, 64 images a step, rate 1e-3, decay 0.05, cosine), then 3 epochs rounded from it (rate 5e-4, cosine); the last two arms go on from the third for 2 epochs at a constant 5e-4, one of them with confident weights frozen (BR 0.005). First and last layer 8 bits. Oscillations over the last 200 steps; a weight oscillates when its moving mean is above 0.005; accuracy on 5,000 test images. 3/3 with the first seed alone.",
        Arms = [Float, Lsq, Halves, StatsQ, Qkr, Continued, Annealed],
        Settings = ["2/2", "3/3"],
        Metric = Events,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Low-bit weights of vision transformers oscillate because learnt scales chase them and because queries and keys are rounded apart; scales from statistics (StatsQ), the rounded product (QKR) and freezing confident weights (CGA) calm them without losing accuracy (Liu, Liu, Cheng, ICML 2023, arXiv 2302.02210).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Vit];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # DeiT-T on ImageNet-100 at 2/2, 100 epochs and 15 of annealing, three seeds; baselines weights=lsq and qk_reparam=false
        espalier train --config ./deit-tiny --data ./imagenet100/train --eval-data ./imagenet100/val --batch 512 --lr 5.47e-4 --weight-decay 0.05 --schedule cosine \
            --steps 24700 --method ofq --set bits=2 --set activation_bits=2 --set anneal_share=0.15 --seed 0 --out ./deit-tiny-2
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        using VisionBench images = VisionBench.Open(context, RecipeImages.Fashion, smoke ? Config.Replace("64", "16", StringComparison.Ordinal) : Config, training: 10_000, test: 5_000);
        int epoch = smoke ? 3 : images.TrainingImages.Count / Batch;
        var measured = new List<Measurement>();
        using VisionModel start = VisionModel.Random(images.Config, seed, context.Device);
        Train(start, null, 10 * epoch, 1e-3, "cosine", "float");
        double dense = images.Accuracy(start);
        foreach (string setting in Vit.Settings.Where((_, i) => i == 0 || seed.Value == 0))
        {
            int bits = setting[0] - '0';
            Add(Float, Accuracy, dense);
            var ofq = new Ofq { Bits = bits, ActivationBits = bits };
            Rounded(Lsq, ofq with { Weights = OfqWeights.Lsq, QkReparam = false });
            Rounded(Halves, ofq with { Weights = OfqWeights.LsqHalves, QkReparam = false });
            Rounded(StatsQ, ofq with { QkReparam = false });
            Rounded(Qkr, ofq);

            void Add(string arm, string metric, double value) => measured.Add(new Measurement(Vit.Name, setting, arm, metric, value));

            void Rounded(string arm, Ofq options)
            {
                using VisionModel net = start.Clone();
                using var rounded = new QuantisedNet(net, options);
                using (OscillationHook hook = rounded.Hook())
                {
                    Train(net, rounded, 3 * epoch, 5e-4, "cosine", "rounded", hook);
                    Report(arm, net, hook);
                }

                foreach (string longer in arm == Qkr ? (string[])[Continued, Annealed] : [])
                {
                    using VisionModel copy = net.Clone();
                    using var roundedCopy = new QuantisedNet(copy, options);
                    roundedCopy.CopyFrom(rounded);
                    using OscillationHook hook = roundedCopy.Hook(longer == Annealed ? 0 : null);
                    Train(copy, roundedCopy, 2 * epoch, 5e-4, "constant", "continued", hook);
                    Report(longer, copy, hook);
                }
            }

            void Report(string arm, VisionModel net, OscillationHook hook)
            {
                double accuracy = images.Accuracy(net);
                Add(arm, Accuracy, accuracy);
                Add(arm, Events, 1e6 * hook.Events(LastSteps));
                Add(arm, Share, 100 * hook.Curve.TakeLast(LastSteps).Average(p => p.Share));
                if (arm == Annealed)
                {
                    Add(arm, Free, 100 * hook.Curve.Average(p => p.Free));
                }

                context.Progress.Say(FormattableString.Invariant($"  {setting} {arm}: {accuracy:F2} %, {1e6 * hook.Events(LastSteps):F0} oscillations per million weights and step"));
            }
        }

        return measured;

        void Train(VisionModel net, QuantisedNet? rounded, int steps, double rate, string schedule, string purpose, params IReadOnlyList<ITrainingHook> hooks)
        {
            var options = new TrainingOptions { Steps = steps, LearningRate = rate, WeightDecay = 0.05, Schedule = schedule };
            new VisionTraining(options)
            {
                Batch = Batch,
                Seed = new Seed(seed.For(purpose)),
                Extra = rounded?.Extra ?? [],
                Groups = rounded?.Groups,
                Hooks = hooks,
            }.Run(net, images.TrainingImages, cancellation: context.Cancellation);
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults at = results.At(Vit.Name, Vit.Settings[0]);
        return
        [
            Check.AtMost("2/2: oscillations of StatsQ over those of LSQ", at.Ratio(Events, StatsQ, Lsq), 0.9),
            Check.AtLeast("2/2: accuracy of StatsQ over that of LSQ", at.PerSeed(m => m(StatsQ, Accuracy) - m(Lsq, Accuracy)), 0, "points"),
            Check.AtMost("2/2: oscillations annealed over those of the same training without", at.Ratio(Events, Annealed, Continued), 0.4),
            Check.AtLeast("2/2: accuracy annealed over that of the same training without", at.PerSeed(m => m(Annealed, Accuracy) - m(Continued, Accuracy)), -0.2, "points"),
        ];
    }
}
