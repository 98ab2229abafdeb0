using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>The pruned model as tensors to read: the checkpoint with the journal's finished blocks laid over it.</summary>
internal sealed class PrunedSource
{
    private readonly Checkpoint _checkpoint;
    private readonly PruningJournal _journal;
    private readonly Dictionary<string, (SparsityMask First, SparsityMask Final, WeightLayout Layout)> _masks = new(StringComparer.Ordinal);
    private readonly int _blocks;

    public PrunedSource(Checkpoint checkpoint, ModelConfig config, PruningJournal journal)
    {
        (_checkpoint, _journal, _blocks) = (checkpoint, journal, config.LayerCount);
        for (int i = 0; i < _blocks; i++)
        {
            using var scope = NewDisposeScope();
            using DecoderBlock block = Architecture.For(config).CreateBlock(config, i, Placement.Meta);
            var layouts = block.Linears.ToDictionary(l => l.Name, l => l.Linear.Layout, StringComparer.Ordinal);
            IReadOnlyDictionary<string, SparsityMask> first = journal.FirstMasks(i);
            foreach ((string name, SparsityMask final) in journal.Masks(i))
            {
                _masks[name] = (first[name], final, layouts[name]);
            }
        }
    }

    /// <summary>The final masks by weight name, [out, in].</summary>
    public IReadOnlyDictionary<string, SparsityMask> Masks => _masks.ToDictionary(m => m.Key, m => m.Value.Final, StringComparer.Ordinal);

    /// <summary>The dense weights under the criterion's masks: what pruning alone leaves.</summary>
    public OverlaySource MaskedOnly()
    {
        var source = new OverlaySource(_checkpoint);
        foreach ((string name, (SparsityMask first, _, WeightLayout layout)) in _masks)
        {
            source.Change(name, weight => weight.masked_fill(Oriented(first, layout).logical_not(), 0));
        }

        return source;
    }

    /// <summary>One finished block over the checkpoint.</summary>
    public static OverlaySource WithBlock(ITensorSource checkpoint, PruningJournal journal, int block)
    {
        var source = new OverlaySource(checkpoint);
        foreach (string name in journal.TensorNames(block))
        {
            source.Replace(name, journal.Tensors(block));
        }

        return source;
    }

    /// <summary>The finished blocks over the checkpoint.</summary>
    public OverlaySource Finished()
    {
        var source = new OverlaySource(_checkpoint);
        for (int i = 0; i < _blocks; i++)
        {
            ITensorSource block = _journal.Tensors(i);
            foreach (string name in _journal.TensorNames(i))
            {
                source.Replace(name, block);
            }
        }

        return source;
    }

    /// <summary>The tensors of a model in memory over the checkpoint.</summary>
    public OverlaySource Trained(LanguageModel model)
    {
        var source = new OverlaySource(_checkpoint);
        foreach ((string name, TorchSharp.Modules.Parameter value) in model.Tensors)
        {
            source.Change(name, _ => value.detach().to(CPU).to(ScalarType.Float32));
        }

        return source;
    }

    /// <summary>Stops the run when a zero came back to life.</summary>
    /// <exception cref="EspalierException">Names the weight.</exception>
    public void CheckZeros(LanguageModel model)
    {
        foreach (BlockLinear linear in model.Blocks.SelectMany(b => b.Linears))
        {
            using var scope = NewDisposeScope();
            long revived = _masks[linear.Name].Final.Revived(linear.Linear.Matrix.detach());
            EspalierException.Require(revived == 0, $"Retraining revived {revived} pruned weights of {linear.Name}; nothing was written. This is a fault, please report it.");
        }
    }

    // Masks are [out, in]; a weight may be stored the other way round.
    private static Tensor Oriented(SparsityMask mask, WeightLayout layout) => layout is WeightLayout.OutIn ? mask.ToTensor() : mask.ToTensor().t();
}
