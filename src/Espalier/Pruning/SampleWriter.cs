using Espalier.Checkpoints;
using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>Lets each stage of a model continue the same prompts with the same seed, so that a person can read what pruning did.</summary>
internal sealed class SampleWriter(PruningJob job, long parameters)
{
    private const int NewTokens = 48;

    /// <summary>Above this size a model is not loaded whole just to show text.</summary>
    private const long LargestParameters = 500_000_000;

    private readonly List<Dictionary<string, string>> _continuations = [.. job.Prompts.Select(_ => new Dictionary<string, string>())];

    /// <summary>All prompts with what the stages made of them.</summary>
    public IReadOnlyList<TextSample> All => Skipped ? [] : [.. job.Prompts.Select((p, i) => new TextSample(p, _continuations[i]))];

    private bool Skipped => job.Tokenizer is null || job.Prompts.Count == 0 || parameters > LargestParameters
        || (job.Memory is { } budget && parameters * sizeof(float) * 2 > budget);

    /// <summary>Continues every prompt with one stage of the model.</summary>
    public void Continue(string stage, ModelConfig config, ITensorSource tensors, CancellationToken cancellation)
    {
        if (Skipped)
        {
            return;
        }

        using var scope = NewDisposeScope();
        using LanguageModel model = LanguageModel.Load(config, tensors, job.Device);
        for (int i = 0; i < job.Prompts.Count; i++)
        {
            IReadOnlyList<int> prompt = job.Tokenizer!.Encode(job.Prompts[i]);
            int room = Math.Min(NewTokens, config.MaxPositions - prompt.Count);
            if (room > 0)
            {
                var ids = new TextGenerator(model).Generate([.. prompt], new GenerationOptions { MaxNewTokens = room, Temperature = 0.8, TopK = 40, Seed = job.Seed }, cancellation);
                _continuations[i][stage] = job.Tokenizer.Decode([.. ids]);
            }
        }
    }
}
