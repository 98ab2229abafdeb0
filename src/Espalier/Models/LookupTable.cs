using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>A table of vectors looked up by number: tokens or positions.</summary>
public sealed class LookupTable : nn.Module<Tensor, Tensor>
{
    /// <summary>The vectors [rows, width].</summary>
    public Parameter weight;

    /// <summary>Makes a table that holds no values yet.</summary>
    /// <param name="rows">How many vectors.</param>
    /// <param name="width">Their width.</param>
    /// <param name="placement">Where they live.</param>
    public LookupTable(long rows, long width, Placement placement)
        : base(nameof(LookupTable))
    {
        (Rows, Width) = (rows, width);
        weight = Parameters.Empty([rows, width], placement.Type, placement.Device);
        register_parameter(nameof(weight), weight);
    }

    /// <summary>How many vectors there are.</summary>
    public long Rows { get; }

    /// <summary>The width of a vector.</summary>
    public long Width { get; }

    /// <summary>The table in a compact form; null where it is dense. While there is one, <see cref="weight"/> has its shape but no values.</summary>
    public ICompactWeight? Compact { get; private set; }

    /// <summary>Takes over a table in compact form, which is disposed with this one, and gives the dense one's memory back.</summary>
    internal void Use(ICompactWeight compact)
    {
        Compact?.Dispose();
        Compact = compact;
        Parameters.Release(weight);
    }

    /// <summary>x Wᵀ: how near every row is to x, as a tied head asks.</summary>
    /// <param name="x">[..., width].</param>
    /// <returns>[..., rows].</returns>
    public Tensor Match(Tensor x) => Compact?.Multiply(x) ?? nn.functional.linear(x, weight);

    /// <summary>ids [...] (int64) to vectors [..., width].</summary>
    /// <exception cref="EspalierException">When an id lies outside the table.</exception>
    public override Tensor forward(Tensor ids)
    {
        using var scope = NewDisposeScope();
        if (ids.device_type is TorchSharp.DeviceType.CPU && ids.numel() > 0)
        {
            (long least, long greatest) = (ids.min().item<long>(), ids.max().item<long>());
            EspalierException.Require(least >= 0 && greatest < Rows,
                $"The token id {(least < 0 ? least : greatest)} lies outside the vocabulary of {Rows}; the tokenizer and the model do not belong together.");
        }

        Tensor rows = Compact?.Rows(ids.flatten()) ?? weight.index_select(0, ids.flatten());
        return rows.reshape([.. ids.shape, Width]).MoveToOuterDisposeScope();
    }

    /// <summary>The rows [start, start + count) as [count, width].</summary>
    public Tensor Slice(long start, long count) => weight.narrow(0, start, count);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (disposing)
        {
            Compact?.Dispose();
            Compact = null;
        }
    }
}
