using System.Globalization;
using Espalier.Data;
using Espalier.Methods.Adaptation;
using Espalier.Methods.Pruning;
using Espalier.Pruning;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>LRMC: rough regressions complete a matrix in as many rounds as exact ones and cost far less per round (card, quick reproduction).</summary>
[Reproduces("lrmc")]
public sealed class LrmcRecipe : Recipe
{
    private const string Exact = "exact", Two = "2 sweeps", One = "1 sweep", Adaptive = "adaptive", OffsetsOnly = "offsets only", RowMean = "row mean";
    private const string RoundsTo = "rounds to 1e-3", Final = "relative error at the end", Milliseconds = "ms per round", Success = "recovered, %", Rmse = "RMSE", Psnr = "PSNR of missing pixels, dB";
    private const string Perplexity = ModelBench.PerplexityMetric, Magnitude = "magnitude", Bias = "magnitude, completed as a bias", Removed = "removed", Completed = "completed", Truncated = "best rank-10 matrix for what was removed", WeightError = "weight error, % of its norm";
    private const int Rounds = 20;

    private static readonly Experiment Recovery = new()
    {
        Name = "recovery",
        About = "1,000 × 1,000 products of Gaussian factors, 3·k·n·ln n known entries, at most half; 20 rounds, all entries in each; sweeps of conjugate gradients from the last round's answer. 21 stands for more than 20 rounds.",
        Arms = [Exact, Two, One, Adaptive],
        Settings = ["k = 5", "k = 10", "k = 20", "k = 40"],
        Metric = RoundsTo,
    };

    private static readonly Experiment TimeByRank = new()
    {
        Name = "time by rank",
        About = "2,000 × 2,000, 800,000 known entries, one thread, float32; the least time of four rounds. Exact: normal equations and Cholesky.",
        Arms = [Exact, Two],
        Settings = ["k = 8", "k = 16", "k = 32", "k = 64"],
        Metric = Milliseconds,
    };

    private static readonly Experiment TimeByEntries = new()
    {
        Name = "time by known entries",
        About = "2,000 × 2,000, rank 16, one thread; the least time of four rounds.",
        Arms = [Exact, Two],
        Settings = ["100,000 entries", "200,000 entries", "400,000 entries", "800,000 entries"],
        Metric = Milliseconds,
    };

    private static readonly Experiment Phase = new()
    {
        Name = "success by known entries",
        About = "200 × 200, rank 5, c·k·n·ln n known entries, five draws each, 60 rounds: the share with a relative error below 1e-3.",
        Arms = [Exact, Two],
        Settings = ["c = 0.5", "c = 0.75", "c = 1", "c = 1.5", "c = 2", "c = 3"],
        Metric = Success,
        LowerIsBetter = false,
    };

    private static readonly Experiment Ratings = new()
    {
        Name = "MovieLens-100k",
        About = "Split u1 (80,000 ratings, 20,000 held out): mean and damped offsets of users and films taken off, rank 8, ridge 0.25, 15 rounds; predictions between 1 and 5. The seed changes the start.",
        Arms = [OffsetsOnly, Exact, Two, Adaptive],
        Metric = Rmse,
    };

    private static readonly Experiment Slice = new()
    {
        Name = "brain slice",
        About = "The middle axial slice of the Colin27 T1 volume scaled to 0..1, 60 % of its pixels missing at random; rank 10, ridge 1e-3, 15 rounds.",
        Arms = [RowMean, Exact, Two, Adaptive],
        Metric = Psnr,
        LowerIsBetter = false,
    };

    private static readonly Experiment Weights = new()
    {
        Name = "pruned weights",
        About = "The seven maps of the first block of the default model (or of --model), half of each removed: what is left of the weight by itself, with its removed entries guessed from the kept ones (rank 10, ridge 0.5), and with the best rank-10 matrix for what was removed, which needs the dense weight; mean relative Frobenius error.",
        Arms = [Removed, Completed, Truncated],
        Settings = ["random half removed", "smallest half removed"],
        Metric = WeightError,
    };

    private static readonly Experiment Repairs = new()
    {
        Name = "repair of a language model",
        About = "The same model, the smallest weights of each layer removed, 32 calibration windows of 256 tokens, 64 held-out ones; with the completion's answer to the mean input as a bias (rank 10, ridge 0.5).",
        Arms = [Magnitude, Bias],
        Settings = ["50 %"],
        Metric = Perplexity,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Alternating minimisation completes a low-rank matrix with regressions that are only solved roughly, in time nearly linear in the known entries and the rank instead of quadratic in the rank (Gu, Song, Yin, Zhang, arXiv 2302.11068).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Recovery, TimeByRank, TimeByEntries, Phase, Ratings, Slice, Weights, Repairs];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # MovieLens-1M and -10M (ratings.dat with "::" turned into tabs), ranks 8 to 64; exact and approximate
        espalier complete ratings.tsv --test held-out.tsv --set rank=64 --set ridge=0.25 --set offsets=true --set rounds=30
        espalier complete ratings.tsv --test held-out.tsv --set rank=64 --set ridge=0.25 --set offsets=true --set rounds=30 --set solver=exact
        # n = 50,000, k = 64, c = 3: in C#, new Lrmc { Rank = 64 }.Complete(entries)
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        var measured = new List<Measurement>();
        foreach (string setting in Recovery.Settings)
        {
            (int n, int k) = smoke ? (60, Math.Min(3, Value(setting))) : (1000, Value(setting));
            LowRankProblem problem = LowRankProblem.Draw(n, k, (long)(3 * k * n * Math.Log(n)), seed, setting);
            foreach (string arm in Recovery.Arms)
            {
                (int rounds, double error) = problem.Recover(Solver(arm, k, seed) with { Rounds = Rounds, Tolerance = 0 }, context.Cancellation);
                Add(Recovery, setting, arm, RoundsTo, rounds);
                Add(Recovery, setting, arm, Final, error);
            }

            context.Progress.Say($"  recovery, {setting}");
        }

        foreach ((Experiment experiment, string setting) in new[] { TimeByRank, TimeByEntries }.SelectMany(e => e.Settings.Select(s => (e, s))))
        {
            bool byRank = experiment == TimeByRank;
            (int n, int k, long known) = smoke ? (80, byRank ? Value(setting) / 8 : 4, byRank ? 2000 : Value(setting) / 400) : (2000, byRank ? Value(setting) : 16, byRank ? 800_000 : Value(setting));
            LowRankProblem problem = LowRankProblem.Draw(n, k, known, seed, setting);
            foreach (string arm in experiment.Arms)
            {
                MatrixCompletion done = (Solver(arm, k, seed) with { Rounds = smoke ? 2 : 5, Tolerance = 0, Threads = 1 }).Complete(problem.Entries, context.Cancellation);
                // The first round pays for the compilation.
                Add(experiment, setting, arm, Milliseconds, 1000 * done.Steps.Skip(1).Min(s => s.Seconds));
            }

            context.Progress.Say($"  {experiment.Name}, {setting}");
        }

        foreach (string setting in Phase.Settings)
        {
            (int n, int k, int draws) = smoke ? (40, 2, 1) : (200, 5, 5);
            double c = double.Parse(setting[4..], CultureInfo.InvariantCulture);
            LowRankProblem[] problems = [.. Enumerable.Range(0, draws).Select(d => LowRankProblem.Draw(n, k, (long)(c * k * n * Math.Log(n)), seed, $"{setting}, draw {d}"))];
            foreach (string arm in Phase.Arms)
            {
                Add(Phase, setting, arm, Success, 100.0 * problems.Count(p => p.Recover(Solver(arm, k, seed) with { Rounds = smoke ? 10 : 60 }, context.Cancellation).Error < 1e-3) / draws);
            }
        }

        RunRatings(smoke, seed, context, Add);
        RunSlice(smoke, seed, context, Add);
        RunWeights(seed, context, Add);
        return measured;

        void Add(Experiment experiment, string setting, string arm, string metric, double value) => measured.Add(new Measurement(experiment.Name, setting, arm, metric, value));
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults ratings = results.At(Ratings.Name), slice = results.At(Slice.Name), largest = results.At(TimeByRank.Name, TimeByRank.Settings[^1]);
        return
        [
            .. Recovery.Settings.Select(s => Check.AtMost($"{s}: largest relative error after {Rounds} rounds, exact, 2 sweeps and adaptive", results.At(Recovery.Name, s).PerSeed(m => ((string[])[Exact, Two, Adaptive]).Max(a => m(a, Final))), 1e-4)),
            .. Recovery.Settings.Select(s => Check.AtMost($"{s}: rounds to 1e-3 of 2 sweeps beyond the exact ones", results.At(Recovery.Name, s).PerSeed(m => m(Two, RoundsTo) - m(Exact, RoundsTo)), 1, "rounds", everySeed: true)),
            .. Recovery.Settings.Select(s => Check.AtMost($"{s}: rounds to 1e-3 of 1 sweep beyond twice the exact ones", results.At(Recovery.Name, s).PerSeed(m => m(One, RoundsTo) - (2 * m(Exact, RoundsTo))), 1, "rounds", everySeed: true)),
            Check.AtMost("time per round against the rank, 2 sweeps: exponent", Slope(results, TimeByRank, Two, 0), 1.3),
            Check.AtLeast("time per round against the rank from 16 on, exact: exponent", Slope(results, TimeByRank, Exact, 1), 1.7),
            Check.AtMost("time per round against the known entries, 2 sweeps: exponent", Slope(results, TimeByEntries, Two, 0), 1.3),
            Check.AtLeast("time per round at rank 64, exact over 2 sweeps", largest.Ratio(Milliseconds, Exact, Two), 2),
            Check.AtMost("MovieLens: RMSE of the rougher of the approximate arms over the exact", ratings.PerSeed(m => Math.Max(m(Two, Rmse), m(Adaptive, Rmse)) - m(Exact, Rmse)), 0.005),
            Check.AtLeast("MovieLens: RMSE of offsets alone over the worst completion", ratings.PerSeed(m => m(OffsetsOnly, Rmse) - Math.Max(m(Exact, Rmse), Math.Max(m(Two, Rmse), m(Adaptive, Rmse)))), 0.01),
            Check.AtMost("brain slice: PSNR of the exact completion over the adaptive", slice.PerSeed(m => Math.Abs(m(Exact, Psnr) - m(Adaptive, Psnr))), 0.2, "dB"),
            Check.AtLeast("brain slice: PSNR of the adaptive completion over row means", slice.PerSeed(m => m(Adaptive, Psnr) - m(RowMean, Psnr)), 3, "dB"),
        ];
    }

    private static Lrmc Solver(string arm, int k, Seed seed) => new()
    {
        Rank = k,
        Solver = arm == Exact ? LrmcSolver.Exact : LrmcSolver.Approximate,
        Sweeps = arm == Two ? 2 : arm == One ? 1 : 0,
        Seed = seed.For("completion"),
    };

    private static int Value(string setting) => int.Parse(new string([.. setting.Where(char.IsDigit)]), CultureInfo.InvariantCulture);

    // The exponent of time in what the settings name: least squares on logarithms, from a setting on.
    private static double[] Slope(RecipeResults results, Experiment experiment, string arm, int from)
    {
        string[] settings = [.. experiment.Settings.Skip(from)];
        double[] x = [.. settings.Select(s => Math.Log(Value(s)))];
        return [.. Enumerable.Range(0, results.Seeds.Count).Select(seed =>
        {
            double[] y = [.. settings.Select(s => Math.Log(results.At(experiment.Name, s).Values(arm, Milliseconds)[seed]))];
            double mx = x.Average(), my = y.Average();
            return x.Zip(y, (a, b) => (a - mx) * (b - my)).Sum() / x.Sum(a => (a - mx) * (a - mx));
        })];
    }

    private delegate void Adding(Experiment experiment, string setting, string arm, string metric, double value);

    private static void RunRatings(bool smoke, Seed seed, RecipeContext context, Adding add)
    {
        var table = new EntryTable();
        IReadOnlyList<(int, int, float)> Read(string name) => table.Read(RecipeFiles.Require($"ml-100k/{name}", "MovieLens-100k, grouplens.org"));
        (KnownEntries known, KnownEntries held) = smoke ? Drawn(seed) : Loaded();
        EntryOffsets offsets = EntryOffsets.Fit(known);
        double sum = held.List().Sum(e => Math.Pow(Math.Clamp(offsets.At(e.Row, e.Column), 1, 5) - e.Value, 2));
        add(Ratings, Experiment.Only, OffsetsOnly, Rmse, Math.Sqrt(sum / held.Count));
        foreach (string arm in (string[])[Exact, Two, Adaptive])
        {
            MatrixCompletion done = (Solver(arm, smoke ? 2 : 8, seed) with { Offsets = true, Ridge = 0.25 }).Complete(known, context.Cancellation);
            add(Ratings, Experiment.Only, arm, Rmse, done.Rmse(held, 1, 5));
        }

        context.Progress.Say("  MovieLens-100k");

        (KnownEntries, KnownEntries) Loaded()
        {
            var train = Read("u1.base");
            var test = Read("u1.test");
            return (table.Entries(train), table.Entries(test));
        }
    }

    private static (KnownEntries, KnownEntries) Drawn(Seed seed)
    {
        IReadOnlyList<KnownEntries> parts = LowRankProblem.Draw(40, 2, 800, seed, "ratings").Entries.Select((_, _, v) => Math.Clamp(3 + v, 1, 5)).Split(2, seed.Random("held out"));
        return (parts[0], parts[1]);
    }

    private static void RunSlice(bool smoke, Seed seed, RecipeContext context, Adding add)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using Generator generator = seed.Generator("missing pixels");
        Tensor image = smoke ? outer(linspace(0, 1, 24), linspace(1, 0, 30)) : Middle();
        Tensor known = rand(image.shape, generator: generator).ge(0.6);
        KnownEntries entries = KnownEntries.Of(image, known);
        Tensor mean = (image * known).sum([1L], keepdim: true) / known.sum([1L], keepdim: true).clamp(min: 1);
        add(Slice, Experiment.Only, RowMean, Psnr, Quality(mean.expand(image.shape)));
        foreach (string arm in (string[])[Exact, Two, Adaptive])
        {
            add(Slice, Experiment.Only, arm, Psnr, Quality((Solver(arm, smoke ? 2 : 10, seed) with { Ridge = 1e-3 }).Complete(entries, context.Cancellation).ToTensor()));
        }

        context.Progress.Say("  brain slice");

        double Quality(Tensor guess) => 10 * Math.Log10(1 / (guess - image).masked_select(known.logical_not()).square().mean().item<float>());
    }

    private static Tensor Middle()
    {
        NiftiVolume volume = NiftiVolume.Open(RecipeFiles.Require("mri/colin27_t1.nii.gz", "the Colin27 T1 average brain, in MRIcron's templates"));
        Tensor slice = tensor([.. volume.Slice(volume.Depth / 2)], [volume.Height, volume.Width]);
        return (slice - slice.min()) / (slice.max() - slice.min());
    }

    private static void RunWeights(Seed seed, RecipeContext context, Adding add)
    {
        using ModelBench bench = ModelBench.Open(context, seed);
        var lrmc = new Lrmc { Rank = 10, Ridge = 0.5, Seed = seed.For("completion") };
        foreach (string setting in Weights.Settings)
        {
            var errors = new Dictionary<string, List<double>> { [Removed] = [], [Completed] = [], [Truncated] = [] };
            int seen = 0;
            bench.Watch(Espalier.Sparsity.CalibrationNeeds.InputMoments, layer =>
            {
                if (seen++ >= 7)
                {
                    return;
                }

                using Generator generator = seed.Generator($"removed {layer.Name}");
                Tensor w = layer.Weight.to(ScalarType.Float32), score = setting == Weights.Settings[0] ? rand(w.shape, generator: generator) : w.abs();
                Tensor keep = score.gt(score.flatten().kthvalue(w.numel() / 2, 0, false).values);
                Tensor rest = w.masked_fill(keep, 0);
                (Tensor u, Tensor s, Tensor vh) = linalg.svd(rest, fullMatrices: false);
                int k = (int)Math.Min(lrmc.Rank, s.numel());
                Tensor best = u.narrow(1, 0, k).mul(s.narrow(0, 0, k)).mm(vh.narrow(0, 0, k));
                Error(Removed, zeros_like(w));
                Error(Completed, lrmc.CompleteWeight(w, keep).masked_fill(keep, 0));
                Error(Truncated, best);

                void Error(string arm, Tensor guess) => errors[arm].Add(100 * ((rest - guess).norm() / w.norm()).item<float>());
            });
            foreach ((string arm, List<double> values) in errors)
            {
                add(Weights, setting, arm, WeightError, values.Average());
            }
        }

        foreach (Measurement m in bench.Compare(Repairs, (arm, setting) => new PruningPlan { Criterion = new Magnitude(), Pattern = ModelBench.PatternOf(setting), Repair = arm == Bias ? lrmc : null }))
        {
            add(Repairs, m.Setting, m.Arm, m.Metric, m.Value);
        }
    }
}
