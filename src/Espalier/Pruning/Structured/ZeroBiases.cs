using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Sparsity;

namespace Espalier.Pruning.Structured;

/// <summary>Gives a model the biases that a repair will fill: zeros at first, so that the function is the same.</summary>
internal static class ZeroBiases
{
    /// <summary>The model with the biases that the plan's repair needs; the model itself where it needs none.</summary>
    /// <param name="model">The opened model; it stays the owner of its source.</param>
    /// <param name="plan">The plan.</param>
    /// <exception cref="Runtime.EspalierException">Where the family's published code knows no such bias.</exception>
    public static StreamedModel For(StreamedModel model, PruningPlan plan)
    {
        if (plan.Repair is not IBiasRepair)
        {
            return model;
        }

        Units cuts = (plan.Pattern as Pattern.StructuredPattern)?.Cuts ?? (Units.Heads | Units.Neurons);
        Architecture family = Architecture.For(model.Config);
        ModelConfig biased = family.WithReaderBiases(model.Config, cuts.HasFlag(Units.Heads), cuts.HasFlag(Units.Neurons));
        var source = new OverlaySource(model.Source);
        for (int i = 0; i < biased.LayerCount; i++)
        {
            using DecoderBlock block = family.CreateBlock(biased, i, Placement.Meta);
            foreach ((string name, TorchSharp.Modules.Parameter value) in block.Tensors.Where(t => !model.Source.Contains(t.Name)))
            {
                string weight = name[..^"bias".Length] + "weight";
                source.Add(ElementTypes.Plan(name, model.Source.Info(weight).ElementType, value.shape));
            }
        }

        return new StreamedModel(biased, source);
    }
}
