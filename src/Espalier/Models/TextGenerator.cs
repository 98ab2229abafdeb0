using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>Continues token sequences, greedily or by sampling with temperature, top-k and top-p (Holtzman et al. 2020).</summary>
/// <param name="model">The model; it must outlive the enumeration.</param>
public sealed class TextGenerator(LanguageModel model)
{
    /// <summary>Continues a prompt, token by token as they are made.</summary>
    /// <param name="prompt">The token ids to begin with; at least one.</param>
    /// <param name="options">How to choose; null is greedy.</param>
    /// <param name="cancellation">Ends the enumeration between two tokens.</param>
    /// <returns>The new token ids, lazily; each enumeration starts anew and gives the same ids.</returns>
    /// <exception cref="EspalierException">At once: when the prompt is empty or has an id that the model does not know, or prompt and new tokens are more than the model's context.</exception>
    /// <exception cref="OperationCanceledException">While enumerating, when cancelled.</exception>
    public IEnumerable<int> Generate(IReadOnlyList<int> prompt, GenerationOptions? options = null, CancellationToken cancellation = default)
    {
        options ??= new GenerationOptions();
        ModelConfig config = model.Config;
        EspalierException.Require(prompt.Count > 0, "There is nothing to continue: the prompt has no tokens; begin it with the tokenizer's start token if the text is empty.");
        foreach (int id in prompt)
        {
            EspalierException.Require(id >= 0 && id < config.VocabSize, $"The prompt's token id {id} lies outside the vocabulary of {config.VocabSize}; the tokenizer and the model do not belong together.");
        }

        EspalierException.Require(prompt.Count + options.MaxNewTokens <= config.MaxPositions,
            $"A prompt of {prompt.Count} tokens and {options.MaxNewTokens} new ones do not fit the model's context of {config.MaxPositions}; shorten the prompt or ask for fewer new tokens.");
        return Enumerate([.. prompt], options, cancellation);
    }

    private IEnumerable<int> Enumerate(IReadOnlyList<int> prompt, GenerationOptions options, CancellationToken cancellation)
    {
        List<int> context = [.. prompt];
        HashSet<int> ends = [.. options.EosTokenIds ?? model.Config.EosTokenIds];
        Random random = options.Seed.Random("generation");
        using KeyValueCache? cache = options.UseCache ? new KeyValueCache(model.Config) : null;
        for (int i = 0; i < options.MaxNewTokens; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            int next = Next(context, cache, options, random);
            context.Add(next);
            yield return next;
            if (ends.Contains(next))
            {
                yield break;
            }
        }
    }

    /// <summary>One step. Scopes and modes are opened and closed within it, for they belong to the thread and must not stay open over a yield.</summary>
    private int Next(List<int> context, KeyValueCache? cache, GenerationOptions options, Random random)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        long[] fresh = [.. context.Skip((int)(cache?.Length ?? 0)).Select(id => (long)id)];
        Tensor logits_V = model.NextLogits(fresh, cache).to(ScalarType.Float32).cpu();
        return options.Temperature == 0 ? (int)logits_V.argmax().item<long>() : Sample(logits_V, options, random);
    }

    private static int Sample(Tensor logits_V, GenerationOptions options, Random random)
    {
        int kept = (int)Math.Min(options.TopK ?? long.MaxValue, logits_V.shape[0]);
        (Tensor values, Tensor indices) = logits_V.topk(kept, 0, largest: true, sorted: true);
        float[] best = [.. values.data<float>()];
        long[] ids = [.. indices.data<long>()];
        double[] weights = [.. best.Select(v => Math.Exp((v - best[0]) / options.Temperature))]; // the greatest becomes 1: no overflow

        // Top-p: the fewest tokens whose share of the whole reaches p, the one that crosses it included.
        double whole = weights.Sum();
        double sum = 0;
        int count = 0;
        while (count < kept && (count == 0 || sum < options.TopP * whole))
        {
            sum += weights[count++];
        }

        double drawn = random.NextDouble() * sum;
        int choice = 0;
        while (choice < count - 1 && (drawn -= weights[choice]) >= 0)
        {
            choice++;
        }

        return (int)ids[choice];
    }
}
