using Espalier.Runtime;
using Espalier.Sparsity.NormalFloats;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>An adaptation that also stores the weights it adapts in fewer bits, so that the whole model can be written as it is used and loads and runs at that size.</summary>
public interface ICompactAdaptationRun : IAdaptationRun
{
    /// <summary>Writes the adapted model: its quantised weights packed, what is trained beside them.</summary>
    /// <param name="folder">The output folder.</param>
    /// <param name="companions">A folder whose tokeniser files are copied; null copies none.</param>
    /// <param name="others">How tensors that are not quantised are stored. Default float32.</param>
    /// <exception cref="EspalierException">When it is no dense language model.</exception>
    NfReport WriteModel(string folder, string? companions = null, ScalarType others = ScalarType.Float32);
}
