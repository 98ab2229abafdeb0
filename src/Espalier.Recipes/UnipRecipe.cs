using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>UNIP: the attention maps of a hybrid layer make a small ViT a better start for segmentation in another modality (card, quick reproduction).</summary>
[Reproduces("unip")]
public sealed class UnipRecipe : Recipe
{
    private const string Tuned = "mIoU after fine-tuning, %", Probed = "mIoU of a linear probe, %", Nmi = "NMI", Taught = "layer taught";
    private const string Random = "random start", Features = "last-layer features", ByNmi = "HAD, layer by NMI";
    private const string Fields = "\"num_channels\": 3, \"image_size\": 56, \"patch_size\": 8, \"image_mean\": [0.45, 0.45, 0.45], \"image_std\": [0.22, 0.22, 0.22]";
    private const string Teacher = "{\"model_type\": \"timm_vit\", \"embed_dim\": 96, \"depth\": 6, \"num_heads\": 4, " + Fields + "}";
    private const int Side = 56, Batch = 32;
    private const double Dimming = 0.3;
    private static readonly long[] Shapes = [0, 1, 7, 8];
    private static readonly int[] Layers = [2, 4, 6];
    private static readonly string[] HadArms = [.. Layers.Select(Had)];

    private static readonly Experiment Segmentation = new()
    {
        Name = "segmentation in another modality",
        About = "Scenes of 56 × 56: an item of Fashion-MNIST (T-shirt, trousers, sneaker or bag) at a random place on an image of CIFAR-10 that is dimmed to 30 % (on undimmed ones the teacher does not leave chance in these few minutes). Teacher: ViT of width 96, 6 blocks, 4 heads, patches of 8, trained on 8,000 coloured scenes to name the item (800 steps of 32), one for all seeds. The other modality: inverted, blurred, grey, of low contrast. Students: width 48, 3 blocks, 4 heads; 150 steps of 32 on 1,500 unlabelled scenes of that modality (AdamW, rate 2e-3), then 300 steps of 16 on 50 labelled ones with the last-layer pyramid and UPerNet (rate 5e-3, layer decay 0.85; after the card's 80 steps every pixel is still called background), or a linear probe on all blocks (200 steps, rate 0.02); 5 classes, background among them; 300 test scenes.",
        Arms = [Random, Features, .. HadArms, ByNmi],
        Metric = Tuned,
        LowerIsBetter = false,
    };

    private static readonly Experiment Patterns = new()
    {
        Name = "attention patterns",
        About = "Normalised mutual information of the teacher's attention maps on 256 scenes of the other modality, layer by layer; the target of 0.09 was found on large teachers with 196 tokens.",
        Arms = [.. Enumerable.Range(1, 6).Select(l => FormattableString.Invariant($"layer {l}"))],
        Metric = Nmi,
        LowerIsBetter = null,
    };

    private static readonly Lock TeacherLock = new();
    private static string? _teacherFolder;

    /// <inheritdoc/>
    public override string Claim =>
        "Distilling nothing but the attention maps of a layer with a hybrid pattern, chosen by their normalised mutual information, prepares a small ViT for segmentation in another modality (Zhang et al., ICLR 2025, arXiv 2502.02257).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Segmentation, Patterns];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # a public ViT-B teacher with timm's names in ./vit-base, 50 epochs of unlabelled images of the far modality, student ViT-T; then segmentation in C# (VitSegmenter)
        espalier attention ./vit-base --data ./thermal
        espalier train --config ./vit-base --data ./thermal --batch 256 --lr 1.5e-4 --weight-decay 0.05 --beta2 0.95 --schedule cosine --warmup 0.05 --steps 20000 \
            --method unip --set width=192 --set heads=3 --set depth=12 --seed 0 --out ./vit-tiny-unip
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        using var scope = NewDisposeScope();
        using ImageTensors items = Items(context, "train", 10_000), testItems = Items(context, "test", 5_000);
        using ImageTensors backgrounds = Backgrounds(context, "train", 5_000), testBackgrounds = Backgrounds(context, "test", 2_000);
        using SegmentationScenes unlabelled = Scenes(items, backgrounds, smoke ? 40 : 1500, new Seed(1)), labelled = Scenes(items, backgrounds, smoke ? 16 : 50, new Seed(seed.For("labelled"))), test = Scenes(testItems, testBackgrounds, smoke ? 20 : 300, new Seed(2));
        using VisionModel teacher = TeacherFor(context, items, backgrounds, smoke);
        var measured = new List<Measurement>();
        var unip = new Unip { Width = 48, Depth = 3, Heads = 4, Grey = false };
        IReadOnlyList<LayerPattern> patterns = unip.Patterns(teacher, unlabelled.Images, context.Cancellation);
        int chosen = unip.Choose(patterns);
        foreach (LayerPattern p in patterns)
        {
            Add(Patterns, FormattableString.Invariant($"layer {p.Layer}"), Nmi, p.Nmi);
        }

        var figures = new Dictionary<int, (double Tuned, double Probed)>();
        Report(Random, Measure(null, null));
        Report(Features, Measure(null, student => Unip.DistilFeatures(teacher, student, Context(unlabelled.Images, Options(smoke ? 2 : 150)), context.Cancellation)));
        foreach (int layer in Layers.Append(chosen).Distinct())
        {
            figures[layer] = Measure(layer, student => unip.Distil(teacher, student, layer, Context(unlabelled.Images, Options(smoke ? 2 : 150)), context.Cancellation));
            if (Layers.Contains(layer))
            {
                Report(Had(layer), figures[layer]);
            }
        }

        Report(ByNmi, figures[chosen]);
        Add(Segmentation, ByNmi, Taught, chosen);
        return measured;

        (double, double) Measure(int? layer, Action<VisionModel>? prepare)
        {
            using VisionModel student = unip.Student(teacher, layer ?? Layers[^1], new Seed(seed.For("student")));
            prepare?.Invoke(student);
            SegmentationScore probe = SegmentationProbe.Run(student, labelled, test, new TrainingOptions { Steps = smoke ? 3 : 200, LearningRate = 0.02, Schedule = "cosine" }, context.Cancellation);
            using var segmenter = new VitSegmenter(student, test.Classes, new Seed(seed.For("segmenter")));
            segmenter.Train(labelled, new TrainingOptions { Steps = smoke ? 2 : 300, LearningRate = 5e-3, WeightDecay = 0.05, Schedule = "linear", WarmupSteps = smoke ? 0 : 8 }, smoke ? 8 : 16, new Seed(seed.For("fine-tuning")), cancellation: context.Cancellation);
            return (100 * segmenter.Evaluate(test).MeanIou, 100 * probe.MeanIou);
        }

        VisionMethodContext Context(ImageTensors images, TrainingOptions options) => new()
        {
            Model = teacher,
            Images = images,
            Options = options,
            Batch = Math.Min(Batch, images.Count),
            Seed = new Seed(seed.For("distillation")),
        };

        void Report(string arm, (double Tuned, double Probed) figure)
        {
            Add(Segmentation, arm, Tuned, figure.Tuned);
            Add(Segmentation, arm, Probed, figure.Probed);
            context.Progress.Say(FormattableString.Invariant($"  {arm}: mIoU {figure.Tuned:F2} % fine-tuned, {figure.Probed:F2} % probed"));
        }

        void Add(Experiment experiment, string arm, string metric, double value) => measured.Add(new Measurement(experiment.Name, Experiment.Only, arm, metric, value));
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults at = results.At(Segmentation.Name);
        return [.. Checks(Tuned, "fine-tuned"), .. Checks(Probed, "probed")];

        IEnumerable<Check> Checks(string metric, string word)
        {
            // The best layer by the mean over the seeds, as one would choose it with hindsight.
            string best = HadArms.Append(ByNmi).MaxBy(a => at.Values(a, metric).Average())!;
            yield return Check.AtLeast($"{word} mIoU of the best layer ({best}) over a random start", at.PerSeed(m => m(best, metric) - m(Random, metric)), 2, "points");
            yield return Check.AtLeast($"{word} mIoU of the best layer over last-layer features", at.PerSeed(m => m(best, metric) - m(Features, metric)), 0, "points");
            yield return Check.AtLeast($"{word} mIoU of the layer chosen by NMI over the best", at.PerSeed(m => m(ByNmi, metric) - m(best, metric)), -2, "points");
        }
    }

    private static string Had(int layer) => FormattableString.Invariant($"HAD, layer {layer}");

    // Four shapes that differ: with all ten, 50 scenes do not teach a small net which is which.
    private static ImageTensors Items(RecipeContext context, string split, int count)
    {
        using ImageTensors all = RecipeImages.Fashion.Load(context, split, count);
        long[] labels = [.. all.Labels.data<long>()];
        int[] places = [.. Enumerable.Range(0, labels.Length).Where(i => Shapes.Contains(labels[i]))];
        using ImageTensors some = all.Take(places);
        return new ImageTensors(some.Name, some.Images.clone(), tensor(places.Select(i => (long)Array.IndexOf(Shapes, labels[i])).ToArray()));
    }

    // Dimmed, so that items stand out.
    private static ImageTensors Backgrounds(RecipeContext context, string split, int count)
    {
        using ImageTensors full = RecipeImages.Cifar.Load(context, split, count);
        using var scope = NewDisposeScope();
        return new ImageTensors($"{full.Name}, dimmed", (full.Images.to(ScalarType.Float32) * Dimming).to(ScalarType.Byte), full.Labels.clone());
    }

    private static SegmentationScenes Scenes(ImageTensors items, ImageTensors backgrounds, int count, Seed seed) => SegmentationScenes.Draw(items, backgrounds, count, Side, SceneRendering.Infrared, seed);

    private static TrainingOptions Options(int steps) => new() { Steps = steps, LearningRate = 2e-3, WeightDecay = 0.05, Beta2 = 0.95, Schedule = "cosine", WarmupSteps = steps / 15 };

    // One teacher for all seeds: trained once in a process, always with the same seed.
    private static VisionModel TeacherFor(RecipeContext context, ImageTensors items, ImageTensors backgrounds, bool smoke)
    {
        lock (TeacherLock)
        {
            if (!smoke && _teacherFolder is not null)
            {
                return VisionModel.Load(_teacherFolder);
            }

            VisionModel teacher = VisionModel.Random(VisionConfig.Parse(Teacher), new Seed(0));
            using SegmentationScenes scenes = SegmentationScenes.Draw(items, backgrounds, smoke ? 32 : 8000, Side, SceneRendering.Colour, new Seed(3));
            var options = new TrainingOptions { Steps = smoke ? 2 : 800, LearningRate = 1e-3, WeightDecay = 0.05, Schedule = "cosine", WarmupSteps = smoke ? 0 : 50 };
            new VisionTraining(options) { Batch = Math.Min(Batch, scenes.Images.Count), Seed = new Seed(0) }.Run(teacher, scenes.Images, cancellation: context.Cancellation);
            context.Progress.Say(FormattableString.Invariant($"  teacher: {ImageAccuracy.Evaluate(teacher, scenes.Images, limit: 1000).Top1:F1} % of 1,000 training scenes named rightly"));
            if (!smoke)
            {
                string folder = Directory.CreateTempSubdirectory("espalier-teacher-").FullName;
                AppDomain.CurrentDomain.ProcessExit += (_, _) => Directory.Delete(folder, recursive: true);
                AtomicFile.WriteText(Path.Combine(folder, ModelConfig.FileName), teacher.Config.ToJsonText());
                teacher.Save(folder);
                _teacherFolder = folder;
            }

            return teacher;
        }
    }
}
