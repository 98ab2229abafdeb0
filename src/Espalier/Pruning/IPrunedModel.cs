using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Pruning.Structured;
using Espalier.Sparsity;

namespace Espalier.Pruning;

/// <summary>What the pruning step of a run made, to be evaluated, retrained and written: masked weights, or a smaller model.</summary>
internal interface IPrunedModel
{
    /// <summary>The configuration of what was made.</summary>
    ModelConfig Config { get; }

    /// <summary>Block by block what happened.</summary>
    IReadOnlyList<BlockReport> Blocks { get; }

    /// <summary>The sizes before and after where units were cut; null where weights were masked.</summary>
    StructureReport? Structure { get; }

    /// <summary>The heads and neurons that were cut out of blocks that stay; none where weights were masked.</summary>
    IReadOnlyList<RemovedUnits> Removed => [];

    /// <summary>The names of the weights that have masks; none where units were cut.</summary>
    IReadOnlyCollection<string> Names { get; }

    /// <summary>The final mask of a weight, [out, in].</summary>
    SparsityMask Mask(string name);

    /// <summary>The result as tensors, in the order and element types in which it is written.</summary>
    ITensorSource Finished();

    /// <summary>The same without what a repair changed.</summary>
    ITensorSource Unrepaired();

    /// <summary>The result with the values of a model in memory.</summary>
    ITensorSource Trained(LanguageModel model);

    /// <summary>Trained weights as they are written where the plan quantises: rounded once more.</summary>
    ITensorSource Requantised(ITensorSource trained) => trained;

    /// <summary>Stops the run when a zero came back to life.</summary>
    /// <exception cref="Runtime.EspalierException">Names the weight.</exception>
    void CheckZeros(LanguageModel model);
}
