using Espalier.Pruning.Measuring;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

// The curves inside a plan: of a language model's logits, with one block in memory at a time and the plan's own criterion.
public sealed partial class RdPrune
{
    /// <summary>P, the levels of a curve that a plan measures; 20. The paper takes 100, at five times the cost.</summary>
    public int Levels
    {
        get;
        init
        {
            EspalierException.Require(value is >= 2 and <= 1000, $"rdprune.levels is {value}; use 10 to 200.");
            field = value;
        }
    } = 20;

    /// <summary>Calibration sequences that curves are measured on; 16, or all where there are fewer.</summary>
    public int Samples
    {
        get;
        init
        {
            EspalierException.Require(value >= 1, $"rdprune.samples is {value}; it must be 1 or more.");
            field = value;
        }
    } = 16;

    /// <summary>Whether a level's distortion is the largest mean squared error of any sequence (the default, used in all published results) or the mean over all.</summary>
    public bool WorstCase { get; init; } = true;

    /// <inheritdoc/>
    public bool IsMeasured => _curves is not null;

    /// <inheritdoc/>
    /// <remarks>Level d of P removes the share d/P of a layer as the plan's criterion, pattern and scope choose it; the last one all of it. The output is the logits of all tokens.</remarks>
    public void Measure(MeasuringContext context)
    {
        int sequences = Math.Min(Samples, context.Calibration.Length);
        var errors = new Dictionary<string, double[][]>(StringComparer.Ordinal); // [level][sequence] of each weight
        ICriterion criterion = context.Plan.Criterion;
        new OutputProbe(context, sequences).Run(context.Plan.Needs, block => !context.Results.Has($"block-{block}"), Changes, Seen, block =>
        {
            using var scope = NewDisposeScope();
            context.Results.Save($"block-{block}", errors.Select(e => (e.Key, tensor((float[])[.. e.Value.Select(d => (float)(WorstCase ? d.Max() : d.Average()))]))));
            errors.Clear();
        });

        IEnumerable<WeightChange> Changes(LayerContext layer)
        {
            errors[layer.Name] = [.. Enumerable.Range(0, Levels + 1).Select(_ => new double[sequences])];
            return Enumerable.Range(1, Levels).Select(d => new WeightChange(layer.Name, d, 0, sequences, weight => Pruned(layer, weight, d)));
        }

        Tensor Pruned(LayerContext layer, Tensor weight, int level)
        {
            if (level == Levels)
            {
                return zeros_like(weight);
            }

            double share = (double)level / Levels;
            return context.Plan.IsJoint
                ? ((IJointPruner)criterion).Prune(layer, context.Plan.Pattern, share).Weight
                : MaskSelection.Apply(weight, MaskSelection.Choose(criterion, layer, context.Plan.Pattern, context.Plan.Scope, share));
        }

        void Seen(WeightChange change, int sequence, Tensor logits, Tensor dense) =>
            errors[change.Weight][change.Number][sequence] = (logits - dense).to(ScalarType.Float64).square().mean().item<double>();
    }

    /// <inheritdoc/>
    public object With(Measurements results) => WithCurves(name =>
    {
        using Tensor measured = results.Read(name);
        float[] distortion = measured.data<float>().ToArray();
        int levels = distortion.Length - 1;
        return new RdCurve([.. Enumerable.Range(0, levels + 1).Select(d => (float)((double)d / levels))], distortion);
    });

    /// <inheritdoc/>
    public double Passes(int layers, int sequences) => (double)layers * Levels * Math.Min(Samples, sequences) / 2;
}
