using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity.NormalFloats;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

/// <summary>A run of LQ-LoRA: writes the model at its real size.</summary>
internal sealed class LqLoraRun(LqLora method, AdaptationContext context, IReadOnlyList<NetWeight> targets, IReadOnlyList<ILinearAdapter> adapters, IReadOnlyList<(string Name, Parameter Value)> whole)
    : WeightAdaptationRun(method, context, targets, adapters, whole), ICompactAdaptationRun
{
    public NfReport WriteModel(string folder, string? companions = null, ScalarType others = ScalarType.Float32)
    {
        EspalierException.Require(Context.Language is not null && Adapters.All(a => a is LqLoraAdapter), "Only a language model that is not pruned can be written quantised; merge this adapter instead.");
        using var scope = NewDisposeScope();
        return NfWriter.Write(
            Context.Language!, Targets.Zip(Adapters).ToDictionary(t => t.First.Name, t => ((LqLoraAdapter)t.Second).Part(), StringComparer.Ordinal), folder, others: others, companions: companions);
    }
}
