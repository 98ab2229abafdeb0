using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>The pruned model as tensors to read: the checkpoint with the journal's finished blocks laid over it.</summary>
internal sealed class PrunedSource : IPrunedModel
{
    private readonly ITensorSource _checkpoint;
    private readonly PruningJournal _journal;
    private readonly Dictionary<string, (int Block, WeightLayout Layout)> _weights = new(StringComparer.Ordinal);
    private readonly int _blocks;
    private readonly PackedType? _grid;

    /// <param name="checkpoint">The dense checkpoint; it decides order and element types.</param>
    /// <param name="config">The model.</param>
    /// <param name="journal">The finished blocks.</param>
    /// <param name="grid">The type on whose grid the weights lie; null where nothing is quantised.</param>
    public PrunedSource(ITensorSource checkpoint, ModelConfig config, PruningJournal journal, PackedType? grid = null)
    {
        (_checkpoint, _journal, _blocks, Config, _grid) = (checkpoint, journal, config.LayerCount, grid is null ? config : AsFloat32(config), grid);
        for (int i = 0; i < _blocks; i++)
        {
            using var scope = NewDisposeScope();
            using DecoderBlock block = Architecture.For(config).CreateBlock(config, i, Placement.Meta);
            foreach (BlockLinear linear in block.Linears)
            {
                _weights[linear.Name] = (i, linear.Linear.Layout);
            }
        }
    }

    public ModelConfig Config { get; }

    public IReadOnlyList<BlockReport> Blocks => [.. Enumerable.Range(0, _blocks).Select(_journal.Report)];

    public Structured.StructureReport? Structure => null;

    /// <summary>The names of the pruned weights in order.</summary>
    public IReadOnlyCollection<string> Names => _weights.Keys;

    /// <summary>The final mask of a weight, [out, in], read from the journal: all of them together take an eighth of a byte per weight, which a large model does not spend at once.</summary>
    public SparsityMask Mask(string name) => _journal.Mask(_weights[name].Block, name);

    /// <summary>The dense weights under the criterion's masks: what pruning alone leaves.</summary>
    public ITensorSource Unrepaired()
    {
        var source = new OverlaySource(_checkpoint);
        foreach ((string name, (int block, WeightLayout layout)) in _weights)
        {
            source.Change(name, weight => weight.masked_fill(Oriented(_journal.FirstMask(block, name), layout).logical_not(), 0));
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
    public ITensorSource Finished()
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
    public ITensorSource Trained(LanguageModel model) => Over(_checkpoint, model);

    /// <summary>The tensors of a model in memory over others, which decide order and element types.</summary>
    public static OverlaySource Over(ITensorSource ground, LanguageModel model)
    {
        var source = new OverlaySource(ground);
        foreach ((string name, TorchSharp.Modules.Parameter value) in model.Tensors)
        {
            source.Change(name, _ => value.detach().to(CPU).to(ScalarType.Float32));
        }

        return source;
    }

    /// <summary>Trained weights back on the grid: to the nearest, with the scale from before training where that serves better. Zeros stay zeros.</summary>
    public ITensorSource Requantised(ITensorSource trained)
    {
        if (_grid is not { } grid)
        {
            return trained;
        }

        var source = new OverlaySource(trained);
        ITensorSource before = Finished();
        foreach ((string name, (_, WeightLayout layout)) in _weights)
        {
            source.Change(name, weight =>
            {
                Tensor old = before.Read(name, ScalarType.Float32);
                return layout is WeightLayout.OutIn ? Grid.Round(weight, grid, old) : Grid.Round(weight.t(), grid, old.t()).t().contiguous();
            });
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
            long revived = Mask(linear.Name).Revived(linear.Linear.Matrix.detach());
            EspalierException.Require(revived == 0, $"Retraining revived {revived} pruned weights of {linear.Name}; nothing was written. This is a fault, please report it.");
        }
    }

    // Programs that go by the configuration must not read quantised weights as 16-bit floats.
    private static ModelConfig AsFloat32(ModelConfig config) => config.With([("dtype", null), ("torch_dtype", "float32")]);

    // Masks are [out, in]; a weight may be stored the other way round.
    private static Tensor Oriented(SparsityMask mask, WeightLayout layout) => layout is WeightLayout.OutIn ? mask.ToTensor() : mask.ToTensor().t();
}
