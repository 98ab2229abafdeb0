using Espalier.Methods.Adaptation;
using Espalier.Methods.Retraining;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Recipes;

public sealed partial class SstRecipe
{
    private const string Auc = "AUC, %", Identity = "identity features", Features = "Gaussian features";
    private const int Width = 16, LinkRank = 2, LinkExchange = 20, LinkWarmup = 5, ValidateEvery = 20;

    private static readonly Experiment Links = new()
    {
        Name = "hyperbolic link prediction",
        About = "Who is an animal of what kind: all pairs (node, ancestor) below \"animal\" in WordNet (WN18RR: 1602 nodes, 9381 pairs; without those data a tree of 1093 nodes), at random 85/5/10 % training, validation and test; a negative keeps the ancestor and draws a node that is not below it. HyboNet: one-hot features, or 64 normal ones over 8, through exp0; Lorentz layer of width 16, centroid over the training links, ReLU, Lorentz layer, centroid; score −d². 100 full-batch steps of Adam at 0.01 (LoRA the better of 0.01 and 0.03 on validation). LoRA and SST with r = 2; SST exchanges every 20 steps, warm-up 5. Test AUC at the best validation step of every 20. Biases and scales train in every arm.",
        Arms = [Full, LoraArm, SstArm],
        Settings = [Identity, Features],
        Metric = Auc,
        LowerIsBetter = false,
    };

    private static List<Measurement> Predict(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        using var scope = NewDisposeScope();
        var measured = new List<Measurement>();
        HypernymLinks links = HypernymLinks.Open(context);
        var split = new LinkSplit(links, seed);
        foreach (string setting in Links.Settings)
        {
            using Generator generator = seed.Generator("node features");
            Tensor tangents = setting == Identity ? eye(links.Nodes) : randn([links.Nodes, 64], generator: generator) / 8;
            Tensor points = Lorentz.Exp0(tangents);
            foreach (string arm in Links.Arms)
            {
                double[] rates = arm == LoraArm && !smoke ? [0.01, 0.03] : [0.01];
                (double _, double test, long trained, double state, double seconds) = rates.Select(r => Train(arm, r)).MaxBy(t => t.Validation);
                context.Progress.Say(FormattableString.Invariant($"  {links.Name}, {setting}, {arm}: AUC {test:F2} %"));
                foreach ((string metric, double value) in new[] { (Auc, test), (ShiftBench.Trained, trained), (ShiftBench.State, state), (ShiftBench.Seconds, seconds) })
                {
                    measured.Add(new Measurement(Links.Name, setting, arm, metric, value));
                }
            }

            (double Validation, double Test, long Trained, double State, double Seconds) Train(string arm, double rate)
            {
                using var inner = NewDisposeScope();
                using LorentzLinear first = new("first", points.shape[1], Width, seed), second = new("second", Width, Width, seed);
                LorentzLinear[] layers = [first, second];
                var trainable = new List<(string Name, Parameter Value)>();
                var spectral = new List<(string, SpectralAdapter)>();
                foreach (LorentzLinear layer in layers)
                {
                    Tensor matrix = layer.Map.Matrix.detach();
                    layer.Map.weight.requires_grad = arm == Full;
                    layer.Map.Adapter = arm == Full ? null
                        : arm == SstArm ? SpectralAdapter.Of(ThinSvd.Of(matrix), LinkRank)
                        : new LoraAdapter(matrix, LinkRank, 2 * LinkRank, seed, layer.Name, LowRankAdapter.Dense(matrix));
                    trainable.AddRange([($"{layer.Name}.bias", layer.Map.bias!), ($"{layer.Name}.scale", layer.LogScale)]);
                    trainable.AddRange(layer.Map.Adapter is { } adapter ? adapter.Parameters.Select(p => ($"{layer.Name}.{p.Name}", p.Value)) : [($"{layer.Name}.weight", layer.Map.weight)]);
                    if (layer.Map.Adapter is SpectralAdapter map)
                    {
                        spectral.Add((layer.Name, map));
                    }
                }

                var best = (Validation: double.NegativeInfinity, Test: 0.0);
                var watch = new AfterSteps(ValidateEvery, () =>
                {
                    using var measuring = NewDisposeScope();
                    Tensor nodes = Nodes();
                    double validation = split.Auc(nodes, split.Validation, "validation negatives");
                    if (validation > best.Validation)
                    {
                        best = (validation, split.Auc(nodes, split.Test, "test negatives"));
                    }
                });
                ITrainingHook[] hooks = [.. spectral.Count == 0 ? [] : (ITrainingHook[])[new SpectralRounds(new Sst { Rank = LinkRank, Exchange = LinkExchange, Warmup = LinkWarmup }, spectral, seed)], watch];
                var options = new TrainingOptions { Steps = smoke ? ValidateEvery : 100, LearningRate = rate, Schedule = "constant" };
                using var loop = new TrainingLoop(options, trainable, (step, _) => split.Loss(Nodes(), step)) { Hooks = hooks };
                double seconds = loop.Run(context.Cancellation).Seconds;
                double state = loop.Optimizer.SaveState().Sum(s => s.Value.numel() * s.Value.element_size()) / 1024.0;
                long trained = trainable.Sum(t => t.Value.numel());
                foreach (LorentzLinear layer in layers)
                {
                    layer.Map.Adapter?.Dispose();
                }

                return (best.Validation, 100 * best.Test, trained, state, seconds);

                Tensor Nodes() => Lorentz.Centroid(split.Mixing, second.Forward(Lorentz.Centroid(split.Mixing, first.Forward(points)).relu()));
            }
        }

        return measured;
    }

    /// <summary>Calls something after every so many steps.</summary>
    private sealed class AfterSteps(int every, Action act) : ITrainingHook
    {
        public void AfterStep(TrainingStep step)
        {
            if ((step.Index + 1) % every == 0)
            {
                act();
            }
        }
    }

    /// <summary>The pairs of a hierarchy, drawn apart, with the mixing matrix of the training ones.</summary>
    private sealed class LinkSplit
    {
        private readonly HypernymLinks _links;
        private readonly Seed _seed;
        private readonly HashSet<(int, int)> _all;
        private readonly (int Node, int Ancestor)[] _training;

        public LinkSplit(HypernymLinks links, Seed seed)
        {
            (_links, _seed, _all) = (links, seed, [.. links.Pairs]);
            (int Node, int Ancestor)[] pairs = [.. links.Pairs];
            seed.Random("split of links").Shuffle(pairs);
            int training = pairs.Length * 85 / 100, validation = pairs.Length * 5 / 100;
            (_training, Validation, Test) = (pairs[..training], pairs[training..(training + validation)], pairs[(training + validation)..]);
            Tensor mixing = eye(links.Nodes);
            mixing.index_put_(tensor(1f), Places(_training.Select(p => p.Node)), Places(_training.Select(p => p.Ancestor)));
            mixing.index_put_(tensor(1f), Places(_training.Select(p => p.Ancestor)), Places(_training.Select(p => p.Node)));
            Mixing = mixing / mixing.sum([1], keepdim: true);
        }

        /// <summary>[nodes, nodes], rows sum to 1: the training links both ways and each node itself.</summary>
        public Tensor Mixing { get; }

        public (int Node, int Ancestor)[] Validation { get; }

        public (int Node, int Ancestor)[] Test { get; }

        /// <summary>softplus(d² − 2) of links and softplus(2 − d²) of new negatives, means.</summary>
        public Tensor Loss(Tensor nodes, long step) =>
            nn.functional.softplus(Distances(nodes, _training) - 2).mean() + nn.functional.softplus(2 - Distances(nodes, Negatives(_training, $"negatives of step {step}"))).mean();

        /// <summary>The chance that a link is nearer than its kind of negative, ties counting half.</summary>
        public double Auc(Tensor nodes, (int, int)[] links, string purpose)
        {
            float[] near = [.. Distances(nodes, links).detach().data<float>()], far = [.. Distances(nodes, Negatives(links, purpose)).detach().data<float>()];
            Array.Sort(far);
            double wins = near.Sum(d => far.Length - Below(far, d, orEqual: true) + ((Below(far, d, orEqual: true) - Below(far, d, orEqual: false)) / 2.0));
            return wins / near.Length / far.Length;
        }

        private static int Below(float[] sorted, float value, bool orEqual)
        {
            (int low, int high) = (0, sorted.Length);
            while (low < high)
            {
                int middle = (low + high) / 2;
                (low, high) = sorted[middle] < value || (orEqual && sorted[middle] == value) ? (middle + 1, high) : (low, middle);
            }

            return low;
        }

        private static Tensor Distances(Tensor nodes, (int Node, int Ancestor)[] pairs) =>
            Lorentz.SquaredDistance(nodes.index_select(0, Places(pairs.Select(p => p.Node))), nodes.index_select(0, Places(pairs.Select(p => p.Ancestor))));

        private (int, int)[] Negatives((int Node, int Ancestor)[] pairs, string purpose)
        {
            Random random = _seed.Random(purpose);
            return [.. pairs.Select(p =>
            {
                int node = random.Next(_links.Nodes);
                while (node == p.Ancestor || _all.Contains((node, p.Ancestor)))
                {
                    node = random.Next(_links.Nodes);
                }

                return (node, p.Ancestor);
            })];
        }

        private static Tensor Places(IEnumerable<int> numbers) => tensor([.. numbers.Select(n => (long)n)], ScalarType.Int64);
    }
}
