using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

// Weights alone, of any net, within one training.
public sealed partial record Ofq : ISparseTraining
{
    /// <inheritdoc/>
    public void Check(IReadOnlyList<NetWeight> weights, int steps)
    {
        EspalierException.Require(weights.Count > 0, "ofq found no weight to round; the net has no linear maps or convolutions.");
        EspalierException.Require(Weights is OfqWeights.StatsQ, "Learnt step sizes of weights are trained beside the net, which --sparse-training does not do; use weights=statsq, or --method ofq for a vision net.");
    }

    /// <summary>Rounds weights by StatsQ at every forward pass, and freezes confident ones in the last part of the training. Activations stay float, and so do a vision net's first and last layer and a language model's embeddings and head.</summary>
    /// <inheritdoc/>
    public ISparseTrainingRun Begin(SparseTrainingContext context)
    {
        Check(context.Weights, context.Steps);
        return new WeightRun(this, context);
    }

    private sealed class WeightRun : ISparseTrainingRun
    {
        private readonly Ofq _options;
        private readonly QuantisedWeight[] _weights;
        private readonly OscillationHook _hook;

        public WeightRun(Ofq options, SparseTrainingContext context)
        {
            _options = options;
            HashSet<string> edges = context.Net is { } net ? [net.Weights[0].WeightName, net.Weights[^1].WeightName] : [];
            _weights = [.. context.Weights.Where(w => !edges.Contains(w.Name)).Select(w => new QuantisedWeight(w.Name, w.Value, options.Bits, w.Change) { InputsFirst = w.InputsFirst })];
            EspalierException.Require(_weights.Length > 0, "ofq leaves the first and the last layer as they are, and this net has no other.");
            foreach (QuantisedWeight weight in _weights)
            {
                weight.Attach();
            }

            _hook = new OscillationHook(_weights, options, context.Steps - (long)Math.Round(options.AnnealShare * context.Steps), context.Progress);
        }

        public string Name => "ofq";

        public string Description => $"ofq {_options}";

        public IReadOnlyDictionary<string, Tensor>? Masks => null;

        public double TrainingShare => 1;

        public void AfterBackward(TrainingStep step) => _hook.AfterBackward(step);

        public void AfterStep(TrainingStep step) => _hook.AfterStep(step);

        public IReadOnlyList<(string Name, Tensor Value)> SaveState() => _hook.SaveState();

        public void LoadState(IReadOnlyDictionary<string, Tensor> state) => _hook.LoadState(state);

        public void Finish()
        {
            foreach (QuantisedWeight weight in _weights)
            {
                weight.Fold();
            }
        }

        public void Dispose()
        {
            _hook.Dispose();
            foreach (QuantisedWeight weight in _weights)
            {
                weight.Dispose();
            }
        }
    }
}
