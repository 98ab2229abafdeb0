using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>A part of a weight seen from afar: the share of weights that are kept in each of its tiles.</summary>
/// <param name="Rows">Rows of the whole matrix (output features).</param>
/// <param name="Columns">Columns of the whole matrix (input features; of a convolution times the kernel).</param>
/// <param name="Row">The first row that is shown.</param>
/// <param name="Column">The first column that is shown.</param>
/// <param name="Height">Rows that are shown.</param>
/// <param name="Width">Columns that are shown.</param>
/// <param name="TilesDown">Tiles from top to bottom.</param>
/// <param name="TilesAcross">Tiles from left to right.</param>
/// <param name="Kept">For each tile, row by row, the share of weights that are not 0, as 0 to 255.</param>
public sealed record TensorPicture(long Rows, long Columns, long Row, long Column, long Height, long Width, int TilesDown, int TilesAcross, byte[] Kept)
{
    /// <summary>Draws a part of a weight.</summary>
    /// <param name="source">The checkpoint.</param>
    /// <param name="name">The tensor; one dimension counts as one row, more than two as rows of all that follow.</param>
    /// <param name="row">The first row; outside values are moved inside.</param>
    /// <param name="column">The first column.</param>
    /// <param name="height">Rows; 0 for all.</param>
    /// <param name="width">Columns; 0 for all.</param>
    /// <param name="tiles">The most tiles on a side, 1 to 512.</param>
    /// <exception cref="EspalierException">When there is no such tensor, or it is empty.</exception>
    public static TensorPicture Of(ITensorSource source, string name, long row = 0, long column = 0, long height = 0, long width = 0, int tiles = 256)
    {
        EspalierException.Require(tiles is >= 1 and <= 512, $"A picture of {tiles} tiles a side is not possible; ask for 1 to 512.");
        using var inference = no_grad();
        using var scope = NewDisposeScope();
        Tensor matrix = Matrix(source, name);
        (long rows, long columns) = (matrix.shape[0], matrix.shape[1]);
        (row, column) = (Math.Clamp(row, 0, rows - 1), Math.Clamp(column, 0, columns - 1));
        height = height <= 0 ? rows - row : Math.Min(height, rows - row);
        width = width <= 0 ? columns - column : Math.Min(width, columns - column);
        (int down, int across) = ((int)Math.Min(height, tiles), (int)Math.Min(width, tiles));
        Tensor kept = matrix.narrow(0, row, height).narrow(1, column, width).ne(0).to(ScalarType.Float32);
        Tensor shares = nn.functional.adaptive_avg_pool2d(kept.reshape(1, 1, height, width), [down, across]).flatten();

        // A single weight that is left in a large tile still shows: above 0 is never drawn as 0.
        Tensor levels = where(shares.gt(0), (shares * 255).round().clamp(1, 255), zeros_like(shares)).to(ScalarType.Byte);
        return new TensorPicture(rows, columns, row, column, height, width, down, across, levels.data<byte>().ToArray());
    }

    /// <summary>How the weights of a tensor spread: counts over equal bins from −top to top, zeros and what is no finite number left out.</summary>
    /// <param name="source">The checkpoint.</param>
    /// <param name="name">The tensor.</param>
    /// <param name="bins">The number of bins.</param>
    /// <returns>The largest absolute value that is shown, the counts, the zeros, mean and standard deviation of all finite weights.</returns>
    public static (double Top, long[] Counts, long Zeros, double Mean, double Deviation) Histogram(ITensorSource source, string name, int bins = 61)
    {
        using var inference = no_grad();
        using var scope = NewDisposeScope();
        Tensor values = Matrix(source, name).to(ScalarType.Float32).flatten();
        values = values.masked_select(values.isfinite());
        Tensor kept = values.masked_select(values.ne(0));
        long zeros = values.numel() - kept.numel();
        if (kept.numel() == 0)
        {
            return (0, new long[bins], zeros, 0, 0);
        }

        double mean = values.mean().item<float>(), deviation = values.numel() > 1 ? values.std().item<float>() : 0;
        // A few outliers would press all others into one bin; they are counted in the outermost ones.
        double top = Math.Min(kept.abs().max().item<float>(), Math.Max(deviation * 5, double.Epsilon));
        top = top > 0 ? top : kept.abs().max().item<float>();
        Tensor places = ((kept / top + 1) * (bins / 2.0)).floor().clamp(0, bins - 1).to(ScalarType.Int64);
        return (top, [.. places.bincount(null, bins).data<long>()], zeros, mean, deviation);
    }

    private static Tensor Matrix(ITensorSource source, string name)
    {
        EspalierException.Require(source.Contains(name), $"The model has no tensor '{name}'.{NearestWord.Suggest(name, source.Names)}");
        EspalierException.Require(source.Info(name).ElementCount > 0, $"The tensor '{name}' is empty; there is nothing to see in it.");
        Tensor read = source.Read(name);
        return read.dim() < 2 ? read.reshape(1, -1) : read.flatten(1);
    }
}
