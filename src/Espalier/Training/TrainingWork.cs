using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Counts what share of the dense multiply-accumulates a sparse training needs, for a run whose weights become zero as it goes.</summary>
/// <param name="weights">The weights that are made sparse.</param>
/// <param name="every">Steps between two counts of the zeros.</param>
internal sealed class TrainingWork(IReadOnlyList<NetWeight> weights, int every = 20)
{
    private double _used, _share = 1;
    private long _steps;

    /// <summary>The mean share over the steps so far; 1 before the first.</summary>
    public double Share => _steps == 0 ? 1 : _used / _steps;

    /// <summary>After a step: its share counts, and zeros are counted again where it is time.</summary>
    public void Step()
    {
        _used += _share;
        _steps++;
        if (_steps % every == 0)
        {
            Count();
        }
    }

    /// <summary>Counts the zeros now.</summary>
    public void Count()
    {
        using var scope = NewDisposeScope();
        _share = weights.Sum(w => w.Macs * ((double)w.Value.count_nonzero().item<long>() / w.Value.numel())) / weights.Sum(w => (double)w.Macs);
    }

    /// <summary>The state for a hook's.</summary>
    public (string Name, Tensor Value) Save() => ("work", tensor([_used, _steps, _share], ScalarType.Float64));

    /// <summary>Takes it over.</summary>
    public void Load(IReadOnlyDictionary<string, Tensor> state)
    {
        double[] work = [.. state["work"].data<double>()];
        (_used, _steps, _share) = (work[0], (long)work[1], work[2]);
    }
}
