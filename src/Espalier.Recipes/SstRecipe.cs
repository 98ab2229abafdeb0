using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>SST: pre-training with a few active singular vectors at a time comes nearer to full rank than other low-rank methods, in Euclidean and hyperbolic nets (card, quick reproductions).</summary>
[Reproduces("sst")]
public sealed partial class SstRecipe : Recipe
{
    private const string PerplexityMetric = "perplexity", Full = "full rank", LoraArm = "LoRA from scratch", ReLoraArm = "ReLoRA*", Galore = "GaLore", SstArm = "sst";
    private const string Default = "sst, default gradient", NoSvd = "sst, never decomposed anew", Uniform = "sst, uniform sampling";
    private const int Rank = 8, Exchange = 10, Warmup = 3, Length = 64, Batch = 16, TrialSteps = 100;

    private static readonly Experiment Characters = new()
    {
        Name = "language model",
        About = "Llama-style, 2 layers, width 96, feed-forward 256, on the characters of the shipped novels of Jane Austen: 400 steps of 16 × 64 characters from random weights, Adam, linear schedule, r = 8 (8 %); SST exchanges its columns every 10 steps with 3 of warm-up, so that a round takes 120 steps and every column is visited three times; ReLoRA* merges every 100 steps, GaLore (scale 0.25) renews its directions every 50. Embeddings, norms and the head train in every arm. The rate is the best of three by trials of 100 steps on windows of their own; ReLoRA* has LoRA's, the variants of sst have its rate. Perplexity by character on 256 held-out windows of 64.",
        Arms = [Full, LoraArm, ReLoraArm, Galore, SstArm, Default, NoSvd, Uniform],
        Metric = PerplexityMetric,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Sparse spectral training closes most of the gap between low-rank methods and full-rank training, and beats LoRA in hyperbolic networks (Zhao et al., arXiv 2405.15481).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Characters, Links];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # OPT-125M's shape on 1-2 billion tokens, r = 64; baselines: espalier train, lora and gradnormlorp
        espalier adapt ./opt-125m-random --data Skylion007/openwebtext:train --eval-data Salesforce/wikitext:wikitext-2-v1:test --method sst --set rank=64 --set exchange=200 \
            --lr 1e-3 --steps 20000 --batch 128 --length 512 --seed 0 --out ./opt-sst
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed) => [.. Pretrain(context, seed), .. Predict(context, seed)];

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults text = results.At(Characters.Name), identity = results.At(Links.Name, Identity), features = results.At(Links.Name, Features);
        double Best(Func<string, string, double> m) => new[] { LoraArm, ReLoraArm, Galore }.Min(a => m(a, PerplexityMetric));
        return
        [
            Check.AtLeast("language model: share of the gap to full rank that sst closes", text.PerSeed(m => 100 * (Best(m) - m(SstArm, PerplexityMetric)) / (Best(m) - m(Full, PerplexityMetric))), 30, "%"),
            Check.AtLeast("links, identity features: sst above LoRA", identity.PerSeed(m => m(SstArm, Auc) - m(LoraArm, Auc)), 0.4, "points"),
            Check.AtLeast("links, identity features: sst above LoRA on every seed", identity.PerSeed(m => m(SstArm, Auc) - m(LoraArm, Auc)), 0, "points", everySeed: true),
            Check.AtLeast("links, identity features: sst above dense", identity.PerSeed(m => m(SstArm, Auc) - m(Full, Auc)), -1, "points"),
            Check.AtLeast("links, Gaussian features: sst above LoRA", features.PerSeed(m => m(SstArm, Auc) - m(LoraArm, Auc)), 0.4, "points"),
        ];
    }

    private static List<Measurement> Pretrain(RecipeContext context, Seed seed)
    {
        using var kept = NewDisposeScope();
        bool smoke = context.Size is RecipeSize.Smoke;
        string text = string.Join('\n', TextDataset.Open(DataReference.Parse(Assets.TrainingText)).Documents.Take(smoke ? 1 : 40));
        string unseen = string.Join('\n', TextDataset.Open(DataReference.Parse(Assets.HeldOutText)).Documents.Take(smoke ? 1 : 10));
        char[] alphabet = [.. text.Distinct().Order()];
        int[] tokens = Ids(text);
        int windows = smoke ? 4 : 256;
        Tensor held = Windows(0), validation = Windows(1);
        ModelConfig config = ModelConfig.Parse($$"""
            {"model_type": "llama", "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": {{Length}}, "vocab_size": {{alphabet.Length}}, "tie_word_embeddings": false}
            """);
        var options = new TrainingOptions { Steps = smoke ? 3 : 400, WarmupSteps = smoke ? 0 : 20 };
        var sst = new Sst { Rank = Rank, Exchange = smoke ? 1 : Exchange, Warmup = Warmup };
        var measured = new List<Measurement>();
        string[] rest = Rest();
        var lora = new Lora { Rank = Rank, Alpha = 2 * Rank, Train = rest };
        Func<LanguageModel, ITrainingHook> merging = model => new ReLora(NetWeight.Of(model), smoke ? 2 : 100, smoke ? 1 : 10, seed);
        var full = new PlainTuning("*");
        double spectral = Best(SstArm, sst, [1e-3, 3e-3, 1e-2]), low = Best(LoraArm, lora, [3e-3, 1e-2, 3e-2]);
        Arm(Full, full, Best(Full, full, [1e-3, 3e-3, 1e-2]));
        Arm(LoraArm, lora, low);
        Arm(ReLoraArm, lora, low, merging);
        Arm(Galore, full, Best(Galore, full, [3e-3, 1e-2, 3e-2]));
        Arm(SstArm, sst, spectral);
        Arm(Default, sst with { Enhanced = false }, spectral);
        Arm(NoSvd, sst with { Redecompose = false }, spectral);
        Arm(Uniform, sst with { Sampling = SpectralSampling.Uniform }, spectral);
        return measured;

        int[] Ids(string of) => [.. of.Select(c => Math.Max(0, Array.BinarySearch(alphabet, c)))];

        Tensor Windows(int part) => tensor([.. Ids(unseen).Skip(part * windows * Length).Take(windows * Length).Select(i => (long)i)], ScalarType.Int64).view(windows, Length);

        string[] Rest()
        {
            using LanguageModel model = LanguageModel.Random(config, seed, context.Device);
            var own = NetWeight.Of(model).Select(w => w.Name).ToHashSet(StringComparer.Ordinal);
            return [.. model.Tensors.Select(t => t.Name).Where(n => !own.Contains(n))];
        }

        // The rate is chosen by short trials on text of its own.
        double Best(string name, IAdaptation method, double[] rates) =>
            smoke ? rates[0] : rates.MinBy(rate => Train(name, method, rate, null, options with { Steps = TrialSteps }, validation).Perplexity);

        void Arm(string name, IAdaptation method, double rate, Func<LanguageModel, ITrainingHook>? hook = null)
        {
            (double perplexity, long trained, double state, double seconds) = Train(name, method, rate, hook, options, held);
            foreach ((string metric, double value) in new[] { (PerplexityMetric, perplexity), (ShiftBench.Trained, trained), (ShiftBench.State, state), (ShiftBench.Rate, rate), (ShiftBench.Seconds, seconds) })
            {
                measured.Add(new Measurement(Characters.Name, Experiment.Only, name, metric, value));
            }
        }

        (double Perplexity, long Trained, double StateKiB, double Seconds) Train(string name, IAdaptation method, double rate, Func<LanguageModel, ITrainingHook>? hook, TrainingOptions own, Tensor windows)
        {
            using var scope = NewDisposeScope();
            using LanguageModel model = LanguageModel.Random(config, seed, context.Device);
            var training = new AdaptationTraining(own with { LearningRate = rate }) { Batch = smoke ? 2 : Batch, Length = Length, Seed = seed, Hooks = hook is null ? [] : [hook(model)], Optimizer = name == Galore ? new Methods.Adaptation.Galore { Rank = Rank, UpdateProjGap = 50, Epsilon = 1e-8 } : null };
            using AdaptationResult result = training.Run(method, model, tokens, cancellation: context.Cancellation);
            double perplexity = Perplexity.Evaluate(model, windows, cancellation: context.Cancellation).Value;
            context.Progress.Say(FormattableString.Invariant($"  {name}: perplexity {perplexity:F3} at {rate} after {own.Steps} steps"));
            return (perplexity, result.TrainedParameters, result.OptimizerBytes / 1024.0, result.Training.Seconds);
        }
    }
}
