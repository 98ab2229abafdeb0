using System.Diagnostics;
using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Evaluation;

/// <summary>How fast a model continues a text, token by token, and how fast it reads a prompt.</summary>
/// <param name="TokensPerSecond">New tokens per second: the median over the repeats.</param>
/// <param name="PromptTokensPerSecond">Prompt tokens per second: the median over the repeats.</param>
/// <param name="Repeats">How often both were measured.</param>
public sealed record DecodingSpeed(double TokensPerSecond, double PromptTokensPerSecond, int Repeats)
{
    /// <summary>What to measure.</summary>
    public sealed record Options
    {
        /// <summary>New tokens per repeat.</summary>
        public int NewTokens { get; init; } = 32;

        /// <summary>Tokens of the prompt.</summary>
        public int PromptTokens { get; init; } = 128;

        /// <summary>Repeats of each model that count.</summary>
        public int Repeats { get; init; } = 5;

        /// <summary>Repeats before them that do not count; 0 for models that have run already.</summary>
        public int WarmUps { get; init; } = 1;
    }

    /// <summary>Measures several models in turns, so that what else the machine does meets all of them.</summary>
    /// <param name="models">The models, wholly in memory.</param>
    /// <param name="options">How much; null for the defaults. Never more than a model's context.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>One result per model, in their order.</returns>
    public static IReadOnlyList<DecodingSpeed> Measure(IReadOnlyList<LanguageModel> models, Options? options = null, CancellationToken cancellation = default)
    {
        options ??= new Options();
        var decode = models.Select(_ => new List<double>()).ToArray();
        var prompt = models.Select(_ => new List<double>()).ToArray();
        for (int repeat = -options.WarmUps; repeat < options.Repeats; repeat++)
        {
            for (int i = 0; i < models.Count; i++)
            {
                cancellation.ThrowIfCancellationRequested();
                (double reading, double writing) = Once(models[i], options);
                if (repeat >= 0)
                {
                    prompt[i].Add(reading);
                    decode[i].Add(writing);
                }
            }
        }

        return [.. models.Select((_, i) => new DecodingSpeed(Median(decode[i]), Median(prompt[i]), options.Repeats))];
    }

    private static (double Prompt, double Decode) Once(LanguageModel model, Options options)
    {
        using var _ = no_grad();
        using var cache = new KeyValueCache(model.Config);
        int made = Math.Clamp(options.NewTokens, 1, Math.Max(1, model.Config.MaxPositions - 1)), read = Math.Clamp(options.PromptTokens, 1, Math.Max(1, model.Config.MaxPositions - made));
        var clock = Stopwatch.StartNew();
        long next = Step(model, cache, [.. Enumerable.Range(0, read).Select(i => i * 7919L % model.Config.VocabSize)]);
        double prompt = read / clock.Elapsed.TotalSeconds;
        clock.Restart();
        for (int i = 0; i < made; i++)
        {
            next = Step(model, cache, [next]);
        }

        return (prompt, made / clock.Elapsed.TotalSeconds);
    }

    private static long Step(LanguageModel model, KeyValueCache cache, long[] ids)
    {
        using var scope = NewDisposeScope();
        return model.NextLogits(ids, cache).argmax().item<long>();
    }

    private static double Median(List<double> values) => values.Order().ElementAt(values.Count / 2);
}
