using System.Globalization;
using Espalier.Data;
using Espalier.Methods.Adaptation;
using Espalier.Methods.Quantization;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity.NormalFloats;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>LQ-LoRA: the low-rank part carries what quantisation loses, the Fisher matrix and the integer program help where bits are few (card, quick reproduction a).</summary>
[Reproduces("lqlora")]
public sealed class LqLoraRecipe : Recipe
{
    private const string Dense = "dense", QLora = "QLoRA: quantised, LoRA at zero", LoftQ = "LoftQ, one turn", Alternating = "LQ-LoRA", Weighted = "LQ-LoRA, Fisher", Program = "LQ-LoRA, Fisher and program";
    private const string Full = "full fine-tuning", Lora = "LoRA on the dense model";
    private const string Perplexity = "perplexity", Error = "squared weight error", Share = "matrices below LoftQ's error, %", Below = "matrices below QLoRA's error, %", Bits = "bits a weight, packed", WithLow = "bits a weight with low-rank parts";
    private const string Trained = "trained parameters", Memory = "weights and optimiser, MB";
    private const int Rank = 8, Length = 128, Turns = 5;
    private const string Tight = "2.5 bits";

    private static readonly string[] Quantised = [QLora, LoftQ, Alternating, Weighted, Program];

    private static readonly Experiment Before = new()
    {
        Name = "before tuning",
        About = "The default model, its 42 block matrices as NormalFloat with 8-bit scales and rank 8; 64 held-out windows of 128 tokens. The first four arms: blocks of 32, the largest matrices with a bit less until the budget holds. The program: 2, 3, 4 or 8 bits, blocks of 16, 32 or 64. At most 5 turns; Fisher matrix of 64 windows. Low-rank parts are not in the budget.",
        Arms = [Dense, .. Quantised],
        Settings = [Tight, "3 bits", "3.5 bits", "4 bits"],
        Metric = Perplexity,
    };

    private static readonly Experiment After = new()
    {
        Name = "after tuning, 2.5 bits",
        About = "60 steps of 8 windows of 128 on the model's own training text, AdamW, 1e-3 (full fine-tuning 2e-4) down to 0 by a cosine. Memory: weights of the block matrices as stored, trained numbers and AdamW's state in float32; dense weights in bfloat16.",
        Arms = [Full, Lora, QLora, Alternating, Program],
        Metric = Perplexity,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Splitting weights into a quantised and a low-rank part by turns loses less than quantising first, and with Fisher weights and bits spent by an integer program it beats QLoRA at equal bits, most at the fewest (Guo, Greengard, Xing, Kim, arXiv 2311.12023).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Before, After];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # LLaMA-2-7B at 2.75 bits, rank 64, Fisher matrix of C4; WikiText-2 perplexity; against start=zero (QLoRA) and LoRA, three seeds
        espalier adapt meta-llama/Llama-2-7b-hf --method lqlora --set budget=2.75 --set rank=64 --set fisher_samples=10000 --set "grid_super_blocks=16,64,256" \
            --data allenai/c4:en:train --batch 16 --length 1024 --steps 1000 --lr 2e-4 --seed 0 --out ./lq
        espalier eval ./lq --data Salesforce/wikitext:wikitext-2-v1:test
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        using RecipeText text = RecipeText.For(context, smoke ? 2 : 64, Length);
        using LanguageModel model = LanguageModel.Load(text.Folder, context.Device);
        using var scope = NewDisposeScope();
        var single = new PackedTokens(text.Training, 1, Length, seed);
        AdaptationContext about = AdaptationContext.Of(model) with { Seed = seed, Samples = new LanguageModelObjective(model, (sample, _) => single.Batch(sample).to(context.Device)) };
        about = about with { Objective = about.Samples };
        NetWeight[] targets = [.. NetWeight.Of(model)];
        var method = new LqLora { Rank = Rank, Alpha = 2 * Rank, Iterations = smoke ? 1 : Turns, FisherSamples = smoke ? 1 : 64, GridBits = smoke ? [2, 4] : [2, 3, 4, 8], GridBlocks = smoke ? [32] : [16, 32, 64] };
        IReadOnlyList<IReadOnlyList<double>> errors = method.Errors(targets, LqLora.Fisher(about, targets, method.FisherSamples), SilentProgress.Instance);
        double dense = Measure(model, text, context);
        var measured = new List<Measurement>();
        foreach (string setting in Before.Settings)
        {
            double bits = double.Parse(setting.Split(' ')[0], CultureInfo.InvariantCulture);
            measured.Add(new Measurement(Before.Name, setting, Dense, Perplexity, dense));
            IReadOnlyList<NfFormat> uniform = BySize(targets, bits), spent = method.Spend(targets, errors, bits).Formats;
            var byMatrix = new Dictionary<string, double[]>();
            foreach (string arm in Quantised)
            {
                LqLora own = Method(method, arm, arm == Program ? spent : uniform);
                using (IAdaptationRun run = own.Begin(about))
                {
                    LqLoraAdapter[] adapters = [.. ((WeightAdaptationRun)run).Adapters.Cast<LqLoraAdapter>()];
                    byMatrix[arm] = [.. adapters.Zip(targets, SquaredError)];
                    double weights = targets.Sum(t => t.Rows * t.Columns), stored = adapters.Sum(a => (a.Quantised.StoredBytes - sizeof(float)) * 8.0) / weights;
                    Add(Before, setting, arm, Perplexity, Measure(model, text, context));
                    Add(Before, setting, arm, Error, byMatrix[arm].Sum());
                    Add(Before, setting, arm, Bits, stored);
                    Add(Before, setting, arm, WithLow, stored + (targets.Sum(t => 16.0 * Rank * (t.Rows + t.Columns)) / weights));
                    if (arm is Alternating or LoftQ)
                    {
                        string other = arm == LoftQ ? QLora : LoftQ;
                        Add(Before, setting, arm, arm == LoftQ ? Below : Share, 100.0 * byMatrix[arm].Zip(byMatrix[other]).Count(p => p.First < p.Second) / targets.Length);
                    }
                }

                if (setting == Tight && After.Arms.Contains(arm))
                {
                    Tune(arm, own, spentBits: own.Formats!);
                }
            }
        }

        Tune(Lora, new Lora { Rank = Rank, Alpha = 2 * Rank }, null);
        TuneAll(measured, text, context, seed);
        return measured;

        void Tune(string arm, IAdaptation own, IReadOnlyList<string>? spentBits)
        {
            var training = new AdaptationTraining(Options(smoke, 1e-3)) { Batch = smoke ? 2 : 8, Length = Length, Seed = seed };
            using AdaptationResult result = training.Run(own, model, text.Training, cancellation: context.Cancellation);
            double bytes = spentBits is null ? 2.0 * targets.Sum(t => t.Rows * t.Columns) : targets.Zip(spentBits.Select(NfFormat.Parse)).Sum(t => t.Second.StorageBits(t.First.Rows * t.First.Columns) / 8);
            Add(After, Experiment.Only, arm, Perplexity, Measure(model, text, context));
            Add(After, Experiment.Only, arm, Trained, result.TrainedParameters);
            Add(After, Experiment.Only, arm, Memory, (bytes + (4.0 * result.TrainedParameters) + result.OptimizerBytes) / 1e6);
        }

        void Add(Experiment experiment, string setting, string arm, string metric, double value)
        {
            measured.Add(new Measurement(experiment.Name, setting, arm, metric, value));
            context.Progress.Say(FormattableString.Invariant($"  {experiment.Name}, {setting} {arm}: {metric} {value:G5}"));
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults tight = results.At(Before.Name, Tight), after = results.At(After.Name);
        return
        [
            .. from s in Before.Settings select Check.AtMost($"{s}: weight error over LoftQ's", results.At(Before.Name, s).Ratio(Error, Alternating, LoftQ), 1, everySeed: true),
            .. from s in Before.Settings select Check.AtMost($"{s}: LoftQ's weight error over QLoRA's", results.At(Before.Name, s).Ratio(Error, LoftQ, QLora), 1, everySeed: true),
            Check.AtLeast($"{Tight}: matrices with less error than LoftQ's", tight.Values(Alternating, Share), 90, "%"),
            Check.AtLeast($"{Tight}: LoftQ's matrices with less error than QLoRA's", tight.Values(LoftQ, Below), 90, "%"),
            .. from s in new[] { Tight, "3 bits" } select Check.AtMost($"{s}, before tuning: perplexity of Fisher and program over QLoRA's", results.At(Before.Name, s).Ratio(Perplexity, Program, QLora), 0.95),
            Check.AtMost($"{Tight}, after tuning: perplexity of Fisher and program over QLoRA's", after.Ratio(Perplexity, Program, QLora), 0.99),
            Check.AtMost("4 bits: the worst perplexity over the best", results.At(Before.Name, "4 bits").PerSeed(m => Quantised.Max(a => m(a, Perplexity)) / Quantised.Min(a => m(a, Perplexity))), 1.02),
            Check.AtMost($"{Tight}: packed bits a weight", tight.Values(Program, Bits), 2.5 + 1e-3, everySeed: true),
        ];
    }

    private static TrainingOptions Options(bool smoke, double rate) => new() { Steps = smoke ? 2 : 60, LearningRate = rate, Schedule = "cosine", SaveEvery = 0 };

    private static LqLora Method(LqLora method, string arm, IReadOnlyList<NfFormat> formats) => method with
    {
        Formats = [.. formats.Select(f => f.ToString())],
        FisherSamples = arm is Weighted or Program ? method.FisherSamples : 0,
        Start = arm switch { QLora => LowRankStart.Zero, LoftQ => LowRankStart.QuantiseFirst, _ => LowRankStart.Alternating },
    };

    private static void TuneAll(List<Measurement> measured, RecipeText text, RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        using LanguageModel model = LanguageModel.Load(text.Folder, context.Device);
        long weights = NetWeight.Of(model).Sum(t => t.Rows * t.Columns);
        new LanguageModelTraining(Options(smoke, 2e-4)) { Batch = smoke ? 2 : 8, Length = Length, Seed = seed }.Run(model, text.Training, null, context.Device, context.Cancellation);
        measured.Add(new Measurement(After.Name, Experiment.Only, Full, Perplexity, Measure(model, text, context)));
        measured.Add(new Measurement(After.Name, Experiment.Only, Full, Trained, model.ParameterCount));
        measured.Add(new Measurement(After.Name, Experiment.Only, Full, Memory, ((2.0 * weights) + (4.0 * 3 * model.ParameterCount)) / 1e6));
    }

    private static double Measure(LanguageModel model, RecipeText text, RecipeContext context)
    {
        using var scope = NewDisposeScope();
        return Evaluation.Perplexity.Evaluate(model, text.Windows, cancellation: context.Cancellation).Value;
    }

    private static double SquaredError(LqLoraAdapter adapter, NetWeight target)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor matrix = target.Matrix();
        return (matrix - adapter.Weight(matrix)).to(ScalarType.Float64).square().sum().item<double>();
    }

    /// <summary>Blocks of 32 with b + 1 bits, or b for the largest matrices, as many as the budget needs.</summary>
    private static IReadOnlyList<NfFormat> BySize(IReadOnlyList<NetWeight> targets, double bits)
    {
        NfFormat Format(int b) => new() { Bits = b, Block = 32, SuperBlock = 64 };
        long Count(int i) => targets[i].Rows * targets[i].Columns;
        int low = Enumerable.Range(2, 7).Last(b => Enumerable.Range(0, targets.Count).Sum(i => Format(b).StorageBits(Count(i))) <= bits * targets.Sum(t => t.Rows * t.Columns));
        int[] given = [.. targets.Select(_ => low + 1)];
        foreach (int i in Enumerable.Range(0, targets.Count).OrderByDescending(Count).ThenBy(i => i))
        {
            if (Enumerable.Range(0, targets.Count).Sum(k => Format(given[k]).StorageBits(Count(k))) <= bits * targets.Sum(t => t.Rows * t.Columns))
            {
                break;
            }

            given[i] = low;
        }

        return [.. given.Select(Format)];
    }
}
