using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Pruning.Structured;

/// <summary>A smaller dense model: the larger one's tensors, cut as they are read, with the biases that stand in for what went.</summary>
internal sealed class CutModel : IPrunedModel
{
    private readonly CutSource _plain, _repaired;

    /// <param name="ground">The larger model's tensors, with room for the biases.</param>
    /// <param name="from">Its configuration.</param>
    /// <param name="plan">What stays.</param>
    /// <param name="biases">What is added to biases, by name; empty without repair.</param>
    /// <param name="blocks">What happened, block by block.</param>
    /// <param name="structure">The sizes.</param>
    public CutModel(ITensorSource ground, ModelConfig from, CutPlan plan, IReadOnlyDictionary<string, float[]> biases, IReadOnlyList<BlockReport> blocks, StructureReport structure)
    {
        (Plan, Config, Blocks, Structure) = (plan, plan.Size(from).Apply(from), blocks, structure);
        Removed = [.. plan.Removed(from)];
        var filled = new OverlaySource(ground);
        foreach ((string name, float[] change) in biases)
        {
            filled.Change(name, bias => bias + tensor(change));
        }

        _plain = new CutSource(ground, from, Config, plan);
        _repaired = biases.Count == 0 ? _plain : new CutSource(filled, from, Config, plan);
    }

    /// <summary>What stays, unit by unit.</summary>
    public CutPlan Plan { get; }

    public ModelConfig Config { get; }

    public IReadOnlyList<BlockReport> Blocks { get; }

    public StructureReport? Structure { get; }

    public IReadOnlyList<RemovedUnits> Removed { get; }

    public IReadOnlyCollection<string> Names => [];

    public SparsityMask Mask(string name) => throw new InvalidOperationException($"{name} was cut, not masked.");

    public ITensorSource Finished() => _repaired;

    public ITensorSource Unrepaired() => _plain;

    public ITensorSource Trained(LanguageModel model) => PrunedSource.Over(_repaired, model);

    public void CheckZeros(LanguageModel model)
    {
        // A smaller dense model has no zeros to keep.
    }
}
