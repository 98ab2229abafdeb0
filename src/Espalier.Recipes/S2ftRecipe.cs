using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>S²FT: as good on the new text as LoRA at as many trained parameters, with less forgotten of the old one, and a cheaper step than full fine-tuning (card, quick reproduction a).</summary>
[Reproduces("s2ft")]
public sealed class S2ftRecipe : Recipe
{
    private const string Full = "full", Lora = "lora r 4", S2ftArm = "s2ft, down", ByWeight = "s2ft, by weight", ByActivation = "s2ft, by activation", Small = "s2ft at 3 %";
    private const string Target = "perplexity of the new text", Old = "perplexity of the old text", Forgetting = "rise of the old log-perplexity at equal new loss";
    private const string Trained = "trained parameters", State = "optimiser bytes", Step = "milliseconds a step", Rate = "learning rate";

    private static readonly Experiment Adapting = new()
    {
        Name = "adapting to another text",
        About = "espalier/imdb-llama-2.8m, trained on IMDb reviews, is adapted to WikiText-2: 60 steps of 4 × 128 tokens of its validation split, AdamW, linear schedule. Measured every 15 steps on 48 windows of 128 tokens of WikiText-2's test split (new) and of IMDb's test reviews (old). LoRA r = 4, alpha 8 on all maps of the blocks; S²FT trains as many numbers in the down projections. The rate of each is the best of three by the new text. What is forgotten is compared at equal new loss: the worst end value of the three, on each curve by interpolation.",
        Arms = [Full, Lora, S2ftArm, ByWeight, ByActivation],
        Metric = Target,
    };

    private static readonly Experiment Cost = new()
    {
        Name = "cost of a step",
        About = "The same model and batches, 12 steps without measurements on the way; S²FT at the official 3 % of the down channels.",
        Arms = [Full, Lora, Small],
        Metric = Step,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Training a few whole channels or heads as dense parts of the weights learns as much as LoRA with as many parameters and forgets less than full fine-tuning, at a cheaper step than full fine-tuning (Yang et al., NeurIPS 2024).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Adapting, Cost];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # LLaMA-3 8B on commonsense_170k, three epochs; ratio 0.03 of the down channels, LoRA of as many parameters, full; eight tasks; seeds 0, 1, 2
        espalier adapt meta-llama/Meta-Llama-3-8B --method s2ft --set down_ratio=0.03 --data commonsense_170k.jsonl --batch 64 --length 512 --steps 8000 \
            --lr 2e-4 --warmup 100 --beta2 0.95 --clip 1 --seed 0 --out ./s2ft-0
        espalier eval meta-llama/Meta-Llama-3-8B --adapter ./s2ft-0 --tasks boolq,piqa,siqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using var bench = new Bench(context, seed);
        long lora = bench.Count(new Lora { Rank = 4, Alpha = 8 });
        var measured = new List<Measurement>();
        var curves = new Dictionary<string, Curve>();
        Best(Full, _ => new FullTuning(), [3e-4, 1e-3, 3e-3]);
        Best(Lora, _ => new Lora { Rank = 4, Alpha = 8 }, [3e-3, 1e-2, 3e-2]);
        S2ft matched = bench.Matching(lora);
        Best(S2ftArm, _ => matched, [1e-3, 3e-3, 1e-2]);
        double[] same = [curves[S2ftArm].Rate];
        Best(ByWeight, _ => matched with { Selection = S2ftSelection.Weight }, same);
        Best(ByActivation, _ => matched with { Selection = S2ftSelection.Activation }, same);
        double worst = new[] { Full, Lora, S2ftArm }.Max(a => curves[a].Points[^1].New);
        foreach ((string arm, Curve curve) in curves)
        {
            Add(Adapting, arm, Target, Math.Exp(curve.Points[^1].New));
            Add(Adapting, arm, Old, Math.Exp(curve.Points[^1].Old));
            Add(Adapting, arm, Forgetting, curve.OldAt(worst) - curve.Points[0].Old);
            Add(Adapting, arm, Trained, curve.Trained);
            Add(Adapting, arm, Rate, curve.Rate);
            Add(Adapting, arm, "perplexity of the new text before", Math.Exp(curve.Points[0].New));
            Add(Adapting, arm, "perplexity of the old text before", Math.Exp(curve.Points[0].Old));
        }

        foreach ((string arm, IAdaptation method) in new (string, IAdaptation)[] { (Full, new FullTuning()), (Lora, new Lora { Rank = 4, Alpha = 8 }), (Small, new S2ft()) })
        {
            (double milliseconds, long bytes, long trained) = bench.Time(method);
            Add(Cost, arm, Step, milliseconds);
            Add(Cost, arm, State, bytes);
            Add(Cost, arm, Trained, trained);
        }

        return measured;

        void Add(Experiment experiment, string arm, string metric, double value) => measured.Add(new Measurement(experiment.Name, Experiment.Only, arm, metric, value));

        void Best(string arm, Func<double, IAdaptation> method, double[] rates)
        {
            Curve best = rates.Take(context.Size is RecipeSize.Smoke ? 1 : rates.Length).Select(rate => bench.Adapt(method(rate), rate)).MinBy(c => c.Points[^1].New)!;
            curves[arm] = best;
            context.Progress.Say(FormattableString.Invariant($"  {arm} at {best.Rate:G2}: new {Math.Exp(best.Points[^1].New):F2}, old {Math.Exp(best.Points[^1].Old):F2}"));
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults adapting = results.At(Adapting.Name), cost = results.At(Cost.Name);
        return
        [
            Check.AtMost("new loss of S²FT over LoRA's, as many parameters", adapting.PerSeed(m => Math.Log(m(S2ftArm, Target)) / Math.Log(m(Lora, Target))), 1.02),
            Check.AtMost("forgotten at equal new loss, of what full fine-tuning forgets", adapting.Ratio(Forgetting, S2ftArm, Full), 0.9),
            Check.AtMost("forgotten at equal new loss, of what LoRA forgets", adapting.Ratio(Forgetting, S2ftArm, Lora), 1),
            Check.AtMost("trained parameters over LoRA's", adapting.Ratio(Trained, S2ftArm, Lora), 1.05, everySeed: true),
            Check.AtMost("time of a step at 3 % over full fine-tuning's", cost.Ratio(Step, Small, Full), 1),
            Check.AtMost("bytes of the optimiser's state per trained number", cost.PerSeed(m => Math.Floor(m(Small, State) / m(Small, Trained))), 8, everySeed: true),
        ];
    }

    /// <summary>One run: its losses in nats at each measurement.</summary>
    private sealed record Curve(double Rate, long Trained, IReadOnlyList<(double New, double Old)> Points)
    {
        /// <summary>The old loss where the new one is a value, by linear interpolation; the end's where it never comes down to it.</summary>
        public double OldAt(double target)
        {
            for (int i = 1; i < Points.Count; i++)
            {
                if (Points[i].New <= target && Points[i - 1].New > Points[i].New)
                {
                    double share = (Points[i - 1].New - target) / (Points[i - 1].New - Points[i].New);
                    return Points[i - 1].Old + (Math.Clamp(share, 0, 1) * (Points[i].Old - Points[i - 1].Old));
                }
            }

            return Points[^1].Old;
        }
    }

    /// <summary>Model and texts.</summary>
    private sealed class Bench : IDisposable
    {
        private readonly RecipeContext _context;
        private readonly Seed _seed;
        private readonly string _folder;
        private readonly int[] _tokens;
        private readonly Tensor _new, _old;
        private readonly int _steps, _every, _length, _batch;

        public Bench(RecipeContext context, Seed seed)
        {
            bool smoke = context.Size is RecipeSize.Smoke;
            (_context, _seed, _steps, _every, _length, _batch) = (context, seed, smoke ? 2 : 60, smoke ? 1 : 15, smoke ? 32 : 128, smoke ? 2 : 4);
            _folder = smoke ? Assets.DefaultModel : Hub.Resolve(context.Model ?? "espalier/imdb-llama-2.8m", context.Progress, context.Cancellation);
            Tokenizer tokenizer = Tokenizer.Load(_folder);
            (string train, string test, string old) = smoke
                ? (Assets.HeldOutText, Assets.HeldOutText, Assets.HeldOutText)
                : ("Salesforce/wikitext:wikitext-2-v1:validation", "Salesforce/wikitext:wikitext-2-v1:test", "stanfordnlp/imdb:plain_text:test");
            _tokens = TokenWindows.FromDocuments(Open(train).Documents, tokenizer);
            _new = Windows(test);
            _old = Windows(old);

            TextDataset Open(string reference) => TextDataset.Open(DataReference.Parse(reference), id => Hub.ResolveDataset(id, context.Progress, cancellation: context.Cancellation));

            Tensor Windows(string reference)
            {
                string[] documents = [.. Open(reference).Documents];
                new Seed(0).Random("recipe evaluation").Shuffle(documents);
                return TokenWindows.NonOverlapping(TokenWindows.FromJoinedText(documents.Take(1500), tokenizer), _length, smoke ? 2 : 48);
            }
        }

        /// <summary>How many numbers a method trains.</summary>
        public long Count(IAdaptation method)
        {
            using LanguageModel model = Load();
            using IAdaptationRun run = method.Begin(AdaptationContext.Of(model));
            return run.TrainedParameters;
        }

        /// <summary>S²FT on the down projections with as many numbers, rounded down to whole channels.</summary>
        public S2ft Matching(long count)
        {
            ModelConfig config = ModelConfig.Load(_folder);
            using LanguageModel model = Load();
            long channels = model.Blocks.SelectMany(b => b.Groups).Where(g => g.Kind is CoupledKind.Neuron).Sum(g => (long)g.Count);
            // Half a channel more: a share that is rounded down must not lose one.
            return new S2ft { DownRatio = Math.Min(1, ((count / config.HiddenSize) + 0.5) / channels) };
        }

        public Curve Adapt(IAdaptation method, double rate)
        {
            using LanguageModel model = Load();
            var points = new List<(double, double)> { Measure(model) };
            using AdaptationResult result = Training(rate, _steps, new Watch(_every, () => points.Add(Measure(model)))).Run(method, model, _tokens, cancellation: _context.Cancellation);
            return new Curve(rate, result.TrainedParameters, points);
        }

        public (double Milliseconds, long Bytes, long Trained) Time(IAdaptation method)
        {
            using LanguageModel model = Load();
            int steps = _context.Size is RecipeSize.Smoke ? 2 : 12;
            var clock = new Clock();
            using AdaptationResult result = Training(1e-3, steps, clock).Run(method, model, _tokens, cancellation: _context.Cancellation);
            return (clock.Median, result.OptimizerBytes, result.TrainedParameters);
        }

        public void Dispose()
        {
            _new.Dispose();
            _old.Dispose();
        }

        private AdaptationTraining Training(double rate, int steps, ITrainingHook hook) =>
            new(new TrainingOptions { Steps = steps, LearningRate = rate, Schedule = "linear" }) { Batch = _batch, Length = _length, Seed = _seed, Hooks = [hook] };

        private LanguageModel Load() => LanguageModel.Load(_folder, _context.Device);

        private (double New, double Old) Measure(LanguageModel model) => (
            Perplexity.Evaluate(model, _new, progress: null, cancellation: _context.Cancellation).LogPerplexity,
            Perplexity.Evaluate(model, _old, progress: null, cancellation: _context.Cancellation).LogPerplexity);
    }

    /// <summary>Measures every so many steps.</summary>
    private sealed class Watch(int every, Action measure) : ITrainingHook
    {
        public string Name => "watch";

        public void AfterStep(TrainingStep step)
        {
            if ((step.Index + 1) % every == 0)
            {
                measure();
            }
        }
    }

    /// <summary>The median time from one step's end to the next; the first steps are warm-up.</summary>
    private sealed class Clock : ITrainingHook
    {
        private readonly List<double> _times = [];
        private long _last;

        public string Name => "clock";

        public double Median => _times.Count == 0 ? 0 : _times.Order().ElementAt(_times.Count / 2);

        public void AfterStep(TrainingStep step)
        {
            long now = System.Diagnostics.Stopwatch.GetTimestamp();
            if (step.Index > 0)
            {
                _times.Add(System.Diagnostics.Stopwatch.GetElapsedTime(_last, now).TotalMilliseconds);
            }

            _last = now;
        }
    }
}
