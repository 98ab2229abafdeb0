using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;

namespace Espalier.Recipes;

/// <summary>The baselines of adapters: parameters of the net trained as they are, all of them (full fine-tuning) or some (the head alone).</summary>
/// <param name="words">Which, as <see cref="NetSelection.Parameters"/> reads them; "*" is all.</param>
internal sealed class PlainTuning(params IReadOnlyList<string> words) : IAdaptation
{
    /// <inheritdoc/>
    public void Check(IReadOnlyList<NetWeight> weights, TrainingOptions options)
    {
    }

    /// <inheritdoc/>
    public IAdaptationRun Begin(AdaptationContext context) => new Tuning(words, NetSelection.Parameters(context, words));

    private sealed class Tuning(IReadOnlyList<string> words, IReadOnlyList<(string Name, Parameter Value)> trainable) : IAdaptationRun
    {
        public string Name => "plain tuning";

        public string Description => $"plain tuning of {string.Join(", ", words)}";

        public IReadOnlyList<(string Name, Parameter Value)> Trainable => trainable;

        public void Save(string folder) => throw new EspalierException("A recipe's baseline is not saved.");

        public void Merge()
        {
        }

        public void Unmerge()
        {
        }

        public void Dispose()
        {
        }
    }
}
