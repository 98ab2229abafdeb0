using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Merging;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>Sparse model soups: the average of copies that were retrained under one mask beats the copies (card, quick reproduction a).</summary>
[Reproduces("sms")]
public sealed class SmsRecipe : Recipe
{
    private const double Sparsity = 0.95;
    private const int Phases = 2, Models = 3, DenseEpochs = 3, Epochs = 2, Batch = 64;
    private const string Dense = "dense", Soup = "soup (sms)", Mean = "members, mean", Best = "members, best", Ensemble = "members, mean of answers",
        Imp = "IMP", ImpLonger = "IMP, 3 times longer", Unrelated = "average of 3 unrelated";

    private const string Accuracy = "test accuracy, %", Zeros = "zeros, %", Apart = "largest angle of two members, degrees";
    private const string Net = """{"model_type": "torchvision_vgg", "layers": [16, "M", 32, "M"], "head": "flatten", "hidden": [128], "num_channels": 1, "image_size": 28, "image_mean": [0.286], "image_std": [0.353]}""";

    private static readonly Experiment Pruning = new()
    {
        Name = "pruning a small CNN",
        About = "Fashion-MNIST, the first 10,000 training and 10,000 test images; two 3×3 convolutions (16, 32) with batch norm and pooling, a layer of 128; 3 dense epochs of SGD (64 images, rate 0.05, momentum 0.9 with Nesterov, decay 1e-4, linear). Global magnitude pruning to 95 % in two phases, 2 epochs each (LLR). IMP retrains one model, IMP 3 times longer for 6 epochs a phase; the soup averages 3 in each phase, and its members are those of the last. The unrelated three are dense nets of their own seeds, each pruned to 95 % by itself.",
        Arms = [Dense, Imp, ImpLonger, Mean, Best, Ensemble, Soup, Unrelated],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Copies of a pruned net that are retrained under one mask with other seeds can be averaged: the average is as sparse, better than its members, and pruning in phases with averages beats iterative magnitude pruning (Zimmer, Spiegel, Pokutta, arXiv 2306.16788).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Pruning];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # ResNet-20 and ResNet-56 on CIFAR-10, s of 0.9, 0.95, 0.98, T = 3, E = 15 epochs, m of 3 and 5, three seeds; baselines IMP, IMP 3 times longer, best member
        espalier train --config akamaster/cifar10-resnet20 --data uoft-cs/cifar10:train --eval-data uoft-cs/cifar10:test --augment cifar --batch 128 --optimizer sgd \
            --momentum 0.9 --nesterov --weight-decay 1e-4 --lr 0.1 --steps 5850 --method sms --set sparsity=0.98 --set phases=3 --set models=5 --seed 0 --out ./soup
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using ImageTensors train = RecipeImages.Fashion.Load(context, "train", 10_000);
        using ImageTensors test = RecipeImages.Fashion.Load(context, "test", 10_000);
        using var scope = NewDisposeScope();
        var measured = new List<Measurement>();
        int epoch = Math.Max(1, train.Count / Batch);
        TrainingOptions options = new() { Steps = Epochs * epoch, LearningRate = 0.05, Optimizer = "sgd", Momentum = 0.9, Nesterov = true, WeightDecay = 1e-4, SaveEvery = 0 };
        int dense = DenseEpochs * epoch;
        double[] rates = [.. Enumerable.Range(0, dense).Select(k => LearningRateSchedule.At(options with { Steps = dense }, k))];
        var sms = new Sms { Sparsity = Sparsity, Phases = Phases, Models = Models, DenseRates = rates };
        using VisionModel start = VisionModel.Random(VisionConfig.Parse(Net), seed, context.Device);
        var work = new VisionMethodContext { Model = start, Images = train, Test = test, Options = options, Batch = Batch, Seed = seed };
        work.Train(start, seed, options: options with { Steps = dense }, cancellation: context.Cancellation);
        Add(Dense, start);

        RunImp(Imp, options);
        RunImp(ImpLonger, options with { Steps = Models * options.Steps });
        RunSoup();
        RunUnrelated();
        return measured;

        void Add(string arm, VisionModel net)
        {
            measured.Add(new Measurement(Pruning.Name, Experiment.Only, arm, Accuracy, ImageAccuracy.Evaluate(net, test).Top1));
            measured.Add(new Measurement(Pruning.Name, Experiment.Only, arm, Zeros, 100 * ZeroShare(net)));
            context.Progress.Say(FormattableString.Invariant($"  {arm}: accuracy {measured[^2].Value:F2} %"));
        }

        double Prune(VisionModel net, Dictionary<string, Tensor> masks, int phase) => MagnitudePruning.Prune(
            net, masks, Sms.PhaseRate(Sparsity, Phases).PerPhase, MagnitudeSelector.Global, new Seed(seed.For($"pruning of phase {phase}")));

        VisionModel[] Retrain(VisionModel net, Dictionary<string, Tensor> masks, TrainingOptions own, int phase, int models, double dropped) => [.. work.TrainAll(
            Enumerable.Range(0, models).Select(i => sms.Job(net, masks, work with { Options = own }, train, phase, i, Sms.PhaseRate(Sparsity, Phases).PerPhase, dropped)), context.Cancellation)];

        void RunImp(string arm, TrainingOptions own)
        {
            VisionModel net = start.Clone();
            Dictionary<string, Tensor> masks = MagnitudePruning.All(net);
            for (int phase = 1; phase <= Phases; phase++)
            {
                double dropped = Prune(net, masks, phase);
                VisionModel next = Retrain(net, masks, own, phase, 1, dropped)[0];
                net.Dispose();
                net = next;
            }

            Add(arm, net);
            net.Dispose();
        }

        void RunSoup()
        {
            VisionModel net = start.Clone();
            Dictionary<string, Tensor> masks = MagnitudePruning.All(net);
            for (int phase = 1; phase <= Phases; phase++)
            {
                double dropped = Prune(net, masks, phase);
                VisionModel[] members = Retrain(net, masks, options, phase, Models, dropped);
                net.Dispose();
                net = sms.Mix(members, masks, work, train);
                if (phase == Phases)
                {
                    AddMembers(members);
                }

                Array.ForEach(members, m => m.Dispose());
            }

            Add(Soup, net);
            net.Dispose();
        }

        void AddMembers(VisionModel[] members)
        {
            double[] each = [.. members.Select(m => ImageAccuracy.Evaluate(m, test).Top1)];
            SoupDistances apart = ModelSoup.Distances([.. members.Select(m => cat([.. m.Parameters.Select(p => p.Value.detach().flatten())]))]);
            ImageAccuracyResult together = ImageAccuracy.Evaluate(
                x => stack([.. members.Select(m => m.Forward(x).softmax(1))]).mean([0L]).log(), work.Batches(test), start.Config.Classes, device: context.Device);
            measured.AddRange(
            [
                new Measurement(Pruning.Name, Experiment.Only, Mean, Accuracy, each.Average()), new Measurement(Pruning.Name, Experiment.Only, Mean, Zeros, 100 * members.Average(ZeroShare)),
                new Measurement(Pruning.Name, Experiment.Only, Mean, Apart, apart.MaxAngle), new Measurement(Pruning.Name, Experiment.Only, Best, Accuracy, each.Max()),
                new Measurement(Pruning.Name, Experiment.Only, Ensemble, Accuracy, together.Top1),
            ]);
        }

        void RunUnrelated()
        {
            VisionModel[] nets = [.. Enumerable.Range(0, Models).Select(i => new Seed(seed.For($"unrelated net {i}"))).Select(own =>
            {
                VisionModel net = VisionModel.Random(start.Config, own, context.Device);
                work.Train(net, own, options: options with { Steps = epoch }, cancellation: context.Cancellation);
                MagnitudePruning.Prune(net, MagnitudePruning.All(net), Sparsity, MagnitudeSelector.Global, own);
                return net;
            })];
            // Without masks nothing says that these nets do not belong together.
            using VisionModel average = ModelSoup.Average(nets, [.. nets.Select(_ => new Dictionary<string, Tensor>())]);
            Sms.Recalibrate(average, work.Batches(), 1);
            Add(Unrelated, average);
            Array.ForEach(nets, n => n.Dispose());
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults measured = results.At(Pruning.Name);
        return
        [
            Check.AtLeast("soup above the mean of its members", Above(Mean), 0.2, "points"),
            Check.AtLeast("soup above IMP", Above(Imp), 0, "points"),
            Check.AtMost("zeros of the soup against those of its members, difference", measured.PerSeed(m => Math.Abs(m(Soup, Zeros) - m(Mean, Zeros))), 0, "points", everySeed: true),
            Check.AtMost("zeros of the average of unrelated nets", measured.Values(Unrelated, Zeros), 94, "%", everySeed: true),
        ];

        IReadOnlyList<double> Above(string arm) => measured.PerSeed(m => m(Soup, Accuracy) - m(arm, Accuracy));
    }

    // Of the weights of convolutions and linear maps.
    private static double ZeroShare(VisionModel net)
    {
        using var scope = NewDisposeScope();
        return net.Weights.Sum(w => w.Weight.eq(0).sum().item<long>()) / (double)net.Weights.Sum(w => w.Weight.numel());
    }
}
