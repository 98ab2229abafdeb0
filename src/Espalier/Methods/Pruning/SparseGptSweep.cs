using System.Numerics;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>How the sweep decides what goes.</summary>
/// <param name="Given">A fixed mask [R, C], bool; null where the sweep chooses.</param>
/// <param name="Sparsity">The share of each block, where weights are chosen freely.</param>
/// <param name="PruneN">How many of each group go; 0 where weights are chosen freely.</param>
/// <param name="M">The size of a group.</param>
/// <param name="Grid">int8 or int4 where kept weights are rounded as well.</param>
internal sealed record SweepRule(Tensor? Given = null, double Sparsity = 0, int PruneN = 0, int M = 0, PackedType? Grid = null);

/// <summary>
/// The column sweep of SparseGPT (steps 5 to 7): what a pruned weight contributed, and what rounding took from a kept one, is
/// moved onto the columns after it.
/// </summary>
/// <remarks>
/// All rows share U and are independent inside a block once the block's mask is known, so the block is swept row by row
/// (in parallel, a row's block stays in the first-level cache) instead of column by column over the whole matrix; the
/// columns after the block are then updated by one matrix product. The numbers are those of the published loop.
/// </remarks>
/// <typeparam name="T">float or double.</typeparam>
internal sealed unsafe class SparseGptSweep<T>
    where T : unmanaged, IFloatingPointIeee754<T>
{
    private readonly Tensor _W;
    private readonly Tensor _U;
    private readonly Tensor _keep;
    private readonly SweepRule _rule;
    private readonly string _layer;
    private readonly long _rows;
    private readonly long _columns;
    private readonly double[] _losses;
    private readonly float[] _scales = [];
    private readonly int _group;
    private readonly int _groups;

    /// <summary>Prepares to sweep.</summary>
    /// <param name="W">[R, C] of T, contiguous; it is changed in place.</param>
    /// <param name="U">[C, C] of T, contiguous.</param>
    /// <param name="rule">What goes.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <param name="unrounded">Where weights are rounded, what the sweep leaves without that [R, C] of T, contiguous: scales are taken from it.</param>
    public SparseGptSweep(Tensor W, Tensor U, SweepRule rule, string layer, Tensor? unrounded = null)
    {
        (_W, _U, _rule, _layer) = (W, U, rule, layer);
        (_rows, _columns) = (W.shape[0], W.shape[1]);
        _keep = rule.Given?.to(ScalarType.Bool).cpu().contiguous() ?? empty([_rows, _columns], ScalarType.Bool);
        _losses = new double[_rows];
        if (rule.Grid is { } grid)
        {
            _group = Grid.GroupOf(grid, (int)_columns);
            _groups = (int)((_columns + _group - 1) / _group);
            _scales = Scales(unrounded!);
        }
    }

    /// <summary>Sweeps all columns.</summary>
    /// <returns>The mask [R, C] and the loss Σ err²/2 of every row [R].</returns>
    public (Tensor Keep, Tensor LossRows) Run(int blocksize)
    {
        for (long start = 0; start < _columns; start += blocksize)
        {
            using var scope = NewDisposeScope();
            int width = (int)Math.Min(blocksize, _columns - start);
            Tensor errors = zeros([_rows, width], _W.dtype);
            if (_rule is { Given: null, PruneN: 0 })
            {
                ChooseFreely(start, width);
            }

            SweepBlock(start, width, errors);
            long next = start + width, rest = _columns - next;
            if (rest > 0)
            {
                // Step 7: W[:, next:] −= Err·U[block, next:]
                _W.narrow(1, next, rest).addmm_(errors, _U.narrow(0, start, width).narrow(1, next, rest), beta: 1, alpha: -1);
            }
        }

        return (_keep, tensor(_losses));
    }

    /// <summary>Step 5: over all rows and columns of the block, w²/U_jj² up to the value at index floor(numel·sparsity) goes.</summary>
    private void ChooseFreely(long start, int width)
    {
        using var scope = NewDisposeScope();
        long index = MaskSelection.PruneCount(_rows * width, _rule.Sparsity);
        Tensor diagonal = _U.diagonal().narrow(0, start, width);
        Tensor score = _W.narrow(1, start, width).square().div_(diagonal.square()).contiguous();
        double threshold = typeof(T) == typeof(float)
            ? SmallestSelection.AtRank(TensorMemory.Pointer<float>(score), score.numel(), index)
            : score.reshape(-1).kthvalue(index + 1, 0, false).values.item<double>();
        EspalierException.Require(double.IsFinite(threshold), $"The weights of {_layer} hold NaN or infinite values, or its Hessian is too badly conditioned for its update.");
        _keep.narrow(1, start, width).copy_(score > threshold);
    }

    private void SweepBlock(long start, int width, Tensor errorsOfBlock)
    {
        T[] u = BlockOfU(start, width);
        nint weights = (nint)TensorMemory.Pointer<T>(_W);
        nint mask = (nint)TensorMemory.Pointer<byte>(_keep);
        nint errors = (nint)TensorMemory.Pointer<T>(errorsOfBlock);
        bool finite = true;
        Parallel.For(0, (_rows + 15) / 16, chunk =>
        {
            fixed (T* U = u)
            {
                for (long row = chunk * 16; row < Math.Min(_rows, (chunk + 1) * 16); row++)
                {
                    long at = row * _columns + start;
                    if (!SweepRow((T*)weights + at, (byte*)mask + at, (T*)errors + row * width, U, width, _scales.AsSpan((int)row * _groups, _groups), start, ref _losses[row]))
                    {
                        Volatile.Write(ref finite, false);
                    }
                }
            }
        });
        GC.KeepAlive(_W);
        GC.KeepAlive(_keep);
        GC.KeepAlive(errorsOfBlock);
        EspalierException.Require(finite, $"The weights of {_layer} hold NaN or infinite values, or its Hessian is too badly conditioned for its update.");
    }

    /// <summary>Step 6 for one row: err = (w − q)/U_ii with q = 0 where w goes and else w rounded, and w[i..] −= err·U[i, i..].</summary>
    private bool SweepRow(T* w, byte* keep, T* errors, T* U, int width, ReadOnlySpan<float> scales, long start, ref double loss)
    {
        T rowLoss = T.Zero;
        T half = T.CreateChecked(0.5);
        for (int i = 0; i < width; i++)
        {
            if (_rule.PruneN > 0 && i % _rule.M == 0 && !ChooseGroup(w + i, keep + i, U, i, Math.Min(_rule.M, width - i), width))
            {
                return false;
            }

            T rounded = T.Zero;
            if (keep[i] != 0)
            {
                if (_rule.Grid is not { } grid)
                {
                    continue;
                }

                rounded = T.CreateChecked(Grid.Nearest(grid, float.CreateChecked(w[i]), scales[(int)((start + i) / _group)]));
            }

            T error = (w[i] - rounded) / U[i * width + i];
            rowLoss += half * error * error;
            errors[i] = error;
            w[i] = rounded;
            Subtract(w, U + i * width, error, i + 1, width);
        }

        loss += double.CreateChecked(rowLoss);
        return T.IsFinite(rowLoss);
    }

    // The scales of every row, group by group, from weights as pruning alone leaves them: compensation makes weights grow,
    // and a scale taken before that would cut them off.
    private float[] Scales(Tensor unrounded)
    {
        var scales = new float[_rows * _groups];
        var values = new float[_group];
        T* weights = TensorMemory.Pointer<T>(unrounded);
        for (long at = 0; at < scales.Length; at++)
        {
            long first = at % _groups * _group;
            int count = (int)Math.Min(_group, _columns - first);
            for (int k = 0; k < count; k++)
            {
                values[k] = float.CreateChecked(weights[(at / _groups * _columns) + first + k]);
            }

            scales[at] = Grid.Scale(_rule.Grid!.Value, values.AsSpan(0, count));
        }

        GC.KeepAlive(unrounded);
        return scales;
    }

    /// <summary>Of the next weights as they now are, the ones with the smallest w²/U_jj² go; the lower column where two are equal.</summary>
    private bool ChooseGroup(T* w, byte* keep, T* U, int first, int size, int width)
    {
        T* scores = stackalloc T[size];
        for (int k = 0; k < size; k++)
        {
            T d = U[(first + k) * width + first + k];
            scores[k] = w[k] * w[k] / (d * d);
            keep[k] = 1;
            if (!T.IsFinite(scores[k]))
            {
                return false;
            }
        }

        for (int pruned = 0; pruned < Math.Min(_rule.PruneN, size); pruned++)
        {
            int smallest = -1;
            for (int k = 0; k < size; k++)
            {
                if (keep[k] != 0 && (smallest < 0 || scores[k] < scores[smallest]))
                {
                    smallest = k;
                }
            }

            keep[smallest] = 0;
        }

        return true;
    }

    private static void Subtract(T* w, T* u, T error, int from, int to)
    {
        var factor = new Vector<T>(error);
        int j = from;
        for (; j <= to - Vector<T>.Count; j += Vector<T>.Count)
        {
            Vector.Store(Vector.Load(w + j) - factor * Vector.Load(u + j), w + j);
        }

        for (; j < to; j++)
        {
            w[j] -= error * u[j];
        }
    }

    private T[] BlockOfU(long start, int width)
    {
        var block = new T[width * width];
        T* u = TensorMemory.Pointer<T>(_U);
        for (int i = 0; i < width; i++)
        {
            new ReadOnlySpan<T>(u + (start + i) * _columns + start, width).CopyTo(block.AsSpan(i * width));
        }

        return block;
    }
}
