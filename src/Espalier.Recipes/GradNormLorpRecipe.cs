using Espalier.Data;
using Espalier.Methods.Adaptation;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;
using Parameter = TorchSharp.Modules.Parameter;

namespace Espalier.Recipes;

/// <summary>GradNormLoRP trains as well as GaLore or better with about its optimiser memory, and in 8 bits with far less (card, quick reproduction a).</summary>
[Reproduces("gradnormlorp")]
public sealed class GradNormLorpRecipe : Recipe
{
    private const string Full = "AdamW, all weights", FromLora = "LoRA from scratch", Projected = "GaLore", Persistent = "GradNormLoRP", Official = "GradNormLoRP, official", EightBits = "GradNormLoRP, 8 bits";
    private const string Loss = "held-out loss", Perplexity = "held-out perplexity", State = "optimiser state, kB", MapState = "state of the maps, kB", Adams = "Adam states, kB", Trained = "trained parameters", Rate = "learning rate", Below = "loss at a third of the rate", Above = "loss at three times the rate", In8 = "state in 8 bits, %";
    private const int Rank = 12, Gap = 50, Length = 64, Batch = 16, EightBitsFrom = 256;
    private const double Step = 3; // between two rates of the grid

    private static readonly Experiment Training = new()
    {
        Name = "from scratch",
        About = "A Llama of 2 layers, width 96, 4 heads, 256 neurons, on the characters of the default model's novels: 400 steps of 16 windows of 64, 40 of them warm-up, then a cosine; rank 12, gap 50, scale 0.25. Held out: 200 windows of chapters that are not trained on. The rate of each arm was the best of three a factor of 3 apart on seed 0, which runs all three; other seeds run the best. LoRA trains embeddings, head and norms whole, as all arms do. In 8 bits: state from 256 elements. Adam states are running means without bases and magnitudes.",
        Arms = [Full, FromLora, Projected, Persistent, Official, EightBits],
        Metric = Loss,
    };

    /// <summary>The best rate of each arm on seed 0.</summary>
    private static readonly IReadOnlyDictionary<string, double> Rates = new Dictionary<string, double>
    {
        [Full] = 3e-3, [FromLora] = 1e-2, [Projected] = 3e-2, [Persistent] = 1e-2, [Official] = 3e-2, [EightBits] = 1e-2,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Weight normalisation together with a low-rank projection of the gradient trains as well as GaLore or better with little more optimiser memory; with state in 8 bits the memory falls by up to 89.5 % at the same quality (Huang et al., arXiv 2412.19616).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Training];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # LLaMA-60M on a subset of C4, rank 128, 10,000 steps of 512 windows of 256; against galore and adamw, three seeds
        espalier train --config llama-60m.json --tokenizer t5-base --data allenai/c4:en:train --eval-data allenai/c4:en:validation --batch 128 --accumulate 4 --length 256 \
            --optimizer gradnormlorp --optimizer-set rank=128 --optimizer-set update_proj_gap=250 --optimizer-set scale=0.25 --state-bits 8 \
            --lr 0.01 --schedule cosine --warmup 1000 --steps 10000 --seed 0 --out ./llama-60m
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        EspalierException.Require(context.Model is null, "This reproduction trains a model of its own from random weights; leave --model out.");
        bool smoke = context.Size is RecipeSize.Smoke;
        using var scope = NewDisposeScope();
        (int[] train, int[] heldOut, int characters) = Characters(smoke ? 20_000 : int.MaxValue);
        Tensor windows = tensor(heldOut.Take((smoke ? 8 : 200) * Length).Select(c => (long)c).ToArray()).reshape(-1, Length);
        var measured = new List<Measurement>();
        foreach (string arm in Training.Arms)
        {
            double best = Rates[arm];
            ArmResult result = Train(arm, best, context, seed, train, windows, characters);
            Add(Loss, Math.Log(result.Perplexity));
            Add(Perplexity, result.Perplexity);
            Add(State, result.StateBytes / 1e3);
            Add(MapState, result.MapBytes / 1e3);
            Add(Adams, result.AdamBytes / 1e3);
            Add(Trained, result.Trained);
            Add(Rate, best);
            if (arm == EightBits)
            {
                Add(In8, 100 * result.ShareIn8);
            }
            else if (seed.Value == 0)
            {
                Add(Below, Math.Log(Train(arm, best / Step, context, seed, train, windows, characters).Perplexity));
                Add(Above, Math.Log(Train(arm, best * Step, context, seed, train, windows, characters).Perplexity));
            }

            void Add(string metric, double value)
            {
                measured.Add(new Measurement(Training.Name, Experiment.Only, arm, metric, value));
                context.Progress.Say(FormattableString.Invariant($"  {arm}: {metric} {value:G5}"));
            }
        }

        return measured;
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults all = results.At(Training.Name);
        return
        [
            Check.AtMost("perplexity over GaLore's", all.Ratio(Perplexity, Persistent, Projected), 0.995),
            Check.AtMost("perplexity over GaLore's, seed by seed", all.Ratio(Perplexity, Persistent, Projected), 1, everySeed: true),
            Check.AtMost("Adam states over GaLore's, embeddings and norms included", all.Ratio(Adams, Persistent, Projected), 1.05),
            Check.AtMost("8 bits: loss over that with 32", all.Ratio(Loss, EightBits, Persistent), 1.01),
            Check.AtLeast("8 bits: state of the maps below full Adam's", all.PerSeed(m => 100 * (1 - (m(EightBits, MapState) / m(Full, MapState)))), 85, "%"),
        ];
    }

    private sealed record ArmResult(double Perplexity, long StateBytes, long MapBytes, long AdamBytes, double ShareIn8, long Trained);

    private static ArmResult Train(string arm, double rate, RecipeContext context, Seed seed, int[] tokens, Tensor windows, int characters)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        string config = $$"""{"model_type": "llama", "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": {{characters}}, "max_position_embeddings": {{Length}}, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false}""";
        using LanguageModel model = LanguageModel.Random(ModelConfig.Parse(config, "config.json"), seed, context.Device);
        var options = new TrainingOptions { Steps = smoke ? 3 : 400, LearningRate = rate, Schedule = "cosine", WarmupSteps = smoke ? 1 : 40, ClipNorm = 1, SaveEvery = 0, StateBits = arm == EightBits ? 8 : 32, StateBitsFrom = EightBitsFrom };
        var text = new PackedTokens(tokens, Batch, Length, seed);
        IReadOnlyList<NetWeight> maps = NetWeight.Of(model);
        var names = maps.Select(w => w.Name).ToHashSet(StringComparer.Ordinal);
        var adapters = new List<LoraAdapter>();
        List<(string Name, Parameter Value)> trainable = [.. model.Tensors];
        if (arm == FromLora)
        {
            trainable = [.. trainable.Where(t => !names.Contains(t.Name))];
            foreach (NetWeight map in maps)
            {
                using var scope = NewDisposeScope();
                var adapter = LoraAdapter.OfDense(map.Matrix(), Rank, 2 * Rank, seed, map.Name);
                map.Attach(adapter);
                adapters.Add(adapter);
                trainable.AddRange([($"{map.Name}.lora_A", adapter.A), ($"{map.Name}.lora_B", adapter.B)]);
            }
        }

        foreach ((string name, Parameter value) in model.Tensors)
        {
            value.requires_grad = arm != FromLora || !names.Contains(name);
        }

        IOptimizerMethod? method = arm switch
        {
            Projected => new Galore { Rank = Rank, UpdateProjGap = Gap },
            Persistent or EightBits => new GradNormLorp { Rank = Rank, UpdateProjGap = Gap },
            Official => new GradNormLorp { Rank = Rank, UpdateProjGap = Gap, Mode = MagnitudeMode.Official },
            _ => null,
        };
        using var loop = new TrainingLoop(options, trainable, new LanguageModelObjective(model, (step, _) => text.Batch(step).to(context.Device)))
        {
            OptimizerFactory = method is null ? null : parameters => method.Make(new OptimizerContext { Parameters = parameters, Options = options, Weights = maps }),
            KeepGoodEvery = 0,
        };
        loop.Run(context.Cancellation);
        (string Name, long Bytes, bool Codes)[] state = [.. loop.Optimizer.SaveState().Select(s => (s.Name, s.Value.numel() * s.Value.element_size(), s.Value.dtype is ScalarType.Byte))];
        bool OfMap(string name) => names.Any(n => name.Contains(n, StringComparison.Ordinal));
        var adams = state.Where(s => s.Name.Contains("exp_avg", StringComparison.Ordinal)).ToArray();
        double perplexity = Evaluation.Perplexity.Evaluate(model, windows, cancellation: context.Cancellation).Value;
        long trained = trainable.Sum(t => t.Value.numel());
        adapters.ForEach(a => a.Dispose());
        return new ArmResult(
            perplexity, state.Sum(s => s.Bytes), state.Where(s => OfMap(s.Name)).Sum(s => s.Bytes), adams.Sum(s => s.Bytes),
            adams.Where(s => s.Codes).Sum(s => (double)s.Bytes) / adams.Sum(s => s.Bytes / (s.Codes ? 1.0 : 4.0)), trained);
    }

    /// <summary>Training and held-out text as the numbers of its characters; those that are rare share the last number.</summary>
    private static (int[] Train, int[] HeldOut, int Count) Characters(int most)
    {
        const int frequent = 79;
        string train = Read(Assets.TrainingText, most), heldOut = Read(Assets.HeldOutText, most);
        Dictionary<char, int> numbers = train.GroupBy(c => c).OrderByDescending(g => g.Count()).ThenBy(g => g.Key).Take(frequent).Select((g, i) => (g.Key, i)).ToDictionary(p => p.Key, p => p.i);
        return ([.. train.Select(c => numbers.GetValueOrDefault(c, frequent))], [.. heldOut.Select(c => numbers.GetValueOrDefault(c, frequent))], frequent + 1);

        static string Read(string path, int most)
        {
            string text = string.Join('\n', TextDataset.Open(DataReference.Parse(path), id => id).Documents);
            return text.Length > most ? text[..most] : text;
        }
    }
}
