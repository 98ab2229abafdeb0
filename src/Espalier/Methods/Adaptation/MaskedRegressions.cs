using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// One half step: for every row i of the entries, x_i = argmin ‖B[Ω_i]·x − M[i, Ω_i]‖² + λ‖x‖². B is orthonormal and Ω_i a random subset of its rows, so
/// that B[Ω_i]ᵀB[Ω_i] is nearly a multiple of the identity and a few sweeps of conjugate gradients do; rows where they do not go to a sketch.
/// </summary>
internal sealed class MaskedRegressions(KnownEntries entries, float[] basis, int k, Lrmc options, Runtime.Seed seed)
{
    // With fewer than two, an answer that starts good enough would never get better.
    private const int LeastSweeps = 2, MostSweeps = 20;

    private const double Rounding = 1e-13, Smallest = 1e-30;

    private long _sweeps, _sketched;

    /// <summary>Sweeps over all rows.</summary>
    public long Sweeps => _sweeps;

    /// <summary>Rows that went to the sketch.</summary>
    public long Sketched => _sketched;

    /// <summary>Solves all rows.</summary>
    /// <param name="start">The estimates [rows, k], overwritten by the answers.</param>
    /// <param name="accuracy">ε, relative: for as many sweeps as needed.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public void Solve(float[] start, double accuracy, CancellationToken cancellation)
    {
        var parallel = new ParallelOptions { MaxDegreeOfParallelism = options.Threads == 0 ? Environment.ProcessorCount : options.Threads, CancellationToken = cancellation };
        Parallel.For(0, entries.Rows, parallel, () => new Room(k), (i, _, room) =>
        {
            Solve(i, start.AsSpan(i * k, k), accuracy, room);
            return room;
        }, room =>
        {
            Interlocked.Add(ref _sweeps, room.Sweeps);
            Interlocked.Add(ref _sketched, room.Sketched);
        });
    }

    private void Solve(int row, Span<float> x, double accuracy, Room room)
    {
        SolveFloat(row, x, accuracy, room);
        if (!float.IsFinite(TensorPrimitives.Norm(x)))
        {
            // An ill-conditioned row overflowed: once more in float64.
            room.Sketched++;
            SolveBySketch(row, x, accuracy);
        }
    }

    private void SolveFloat(int row, Span<float> x, double accuracy, Room room)
    {
        ReadOnlySpan<int> known = entries.ColumnsOf(row);
        if (known.Length == 0)
        {
            x.Clear();
        }
        else if (known.Length < k && options.Ridge == 0)
        {
            // From 0, conjugate gradients stay in the rows' span and so end at the answer of least norm.
            x.Clear();
            Sweep(row, x, 0, 2 * known.Length, room);
        }
        else if (options.Solver is LrmcSolver.Exact)
        {
            SolveExactly(row, x, room);
        }
        else if (options.Sweeps > 0)
        {
            Sweep(row, x, 0, options.Sweeps, room);
        }
        else if (!Sweep(row, x, accuracy, MostSweeps, room))
        {
            room.Sketched++;
            SolveBySketch(row, x, accuracy);
        }
    }

    // Conjugate gradients on the normal equations, one pass over the known rows of B a sweep. False where it gained less than twofold a sweep.
    private bool Sweep(int row, Span<float> x, double accuracy, int sweeps, Room room)
    {
        ReadOnlySpan<int> known = entries.ColumnsOf(row);
        ReadOnlySpan<float> values = entries.ValuesOf(row);
        Span<float> s = room.S, p = room.P, t = room.T;
        float ridge = (float)options.Ridge;
        bool warm = TensorPrimitives.Norm(x) > 0;
        s.Clear();
        t.Clear();
        for (int e = 0; e < known.Length; e++)
        {
            ReadOnlySpan<float> a = basis.AsSpan(known[e] * k, k);
            float residual = warm ? values[e] - TensorPrimitives.Dot(a, x) : values[e];
            TensorPrimitives.MultiplyAdd(a, residual, s, s);
            if (accuracy > 0)
            {
                TensorPrimitives.MultiplyAdd(a, values[e], t, t);
            }
        }

        TensorPrimitives.MultiplyAdd(x, -ridge, s, s);
        double gamma = TensorPrimitives.SumOfSquares<float>(s), first = gamma, goal = accuracy > 0 ? accuracy * accuracy * TensorPrimitives.SumOfSquares<float>(t) : 0;
        s.CopyTo(p);
        // Below this only rounding is left, and to go on with it ends in NaN.
        double floor = Math.Max(Rounding * first, Smallest);
        int done = 0;
        for (; done < sweeps && gamma > Math.Max(floor, done < LeastSweeps ? 0 : goal); done++)
        {
            t.Clear();
            for (int e = 0; e < known.Length; e++)
            {
                ReadOnlySpan<float> a = basis.AsSpan(known[e] * k, k);
                TensorPrimitives.MultiplyAdd(a, TensorPrimitives.Dot(a, p), t, t);
            }

            TensorPrimitives.MultiplyAdd(p, ridge, t, t);
            double curvature = TensorPrimitives.Dot<float>(p, t);
            if (!(curvature > 0))
            {
                break;
            }

            float alpha = (float)(gamma / curvature);
            TensorPrimitives.MultiplyAdd(p, alpha, x, x);
            TensorPrimitives.MultiplyAdd(t, -alpha, s, s);
            double next = TensorPrimitives.SumOfSquares<float>(s);
            TensorPrimitives.MultiplyAdd(p, (float)(next / gamma), s, p);
            gamma = next;
        }

        room.Sweeps += done;
        return gamma <= Math.Max(floor, goal) || done == 0 || gamma <= first * Math.Pow(4, -done);
    }

    private void SolveExactly(int row, Span<float> x, Room room)
    {
        ReadOnlySpan<int> known = entries.ColumnsOf(row);
        ReadOnlySpan<float> values = entries.ValuesOf(row);
        Span<float> gram = room.Gram, right = room.S;
        gram.Clear();
        right.Clear();
        for (int e = 0; e < known.Length; e++)
        {
            ReadOnlySpan<float> a = basis.AsSpan(known[e] * k, k);
            TensorPrimitives.MultiplyAdd(a, values[e], right, right);
            for (int i = 0; i < k; i++)
            {
                Span<float> from = gram.Slice(i * k, i + 1);
                TensorPrimitives.MultiplyAdd(a[..(i + 1)], a[i], from, from);
            }
        }

        if (!Cholesky(gram, right, x))
        {
            // Dependent rows: the answer of least norm.
            x.Clear();
            Sweep(row, x, 0, 4 * k, room);
        }
    }

    // Solves (G + λI)·x = right in place, G's lower half given; false where it is not positive definite.
    private bool Cholesky(Span<float> gram, ReadOnlySpan<float> right, Span<float> x)
    {
        float largest = 0;
        for (int i = 0; i < k; i++)
        {
            gram[(i * k) + i] += (float)options.Ridge;
            largest = Math.Max(largest, gram[(i * k) + i]);
        }

        for (int i = 0; i < k; i++)
        {
            Span<float> mine = gram.Slice(i * k, k);
            for (int j = 0; j < i; j++)
            {
                ReadOnlySpan<float> other = gram.Slice(j * k, k);
                mine[j] = (mine[j] - TensorPrimitives.Dot(mine[..j], other[..j])) / other[j];
            }

            float pivot = mine[i] - TensorPrimitives.SumOfSquares<float>(mine[..i]);
            if (!(pivot > 1e-6f * largest))
            {
                return false;
            }

            mine[i] = MathF.Sqrt(pivot);
        }

        for (int i = 0; i < k; i++)
        {
            x[i] = (right[i] - TensorPrimitives.Dot(gram.Slice(i * k, i), x[..i])) / gram[(i * k) + i];
        }

        for (int i = k - 1; i >= 0; i--)
        {
            x[i] /= gram[(i * k) + i];
            TensorPrimitives.MultiplyAdd(gram.Slice(i * k, i), -x[i], x[..i], x[..i]);
        }

        return true;
    }

    private void SolveBySketch(int row, Span<float> x, double accuracy)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        ReadOnlySpan<int> known = entries.ColumnsOf(row);
        double root = Math.Sqrt(options.Ridge);
        int extra = root > 0 ? k : 0;
        // The ridge as k more rows √λ·I with value 0.
        double[] a = new double[(known.Length + extra) * k], b = new double[known.Length + extra];
        for (int e = 0; e < known.Length; e++)
        {
            b[e] = entries.ValuesOf(row)[e];
            for (int c = 0; c < k; c++)
            {
                a[(e * k) + c] = basis[(known[e] * k) + c];
            }
        }

        for (int c = 0; c < extra; c++)
        {
            a[((known.Length + c) * k) + c] = root;
        }

        int rows = options.SketchRows == 0 ? Math.Max(4 * k, k + 10) : options.SketchRows;
        using var problem = SketchedRegression.Draw(tensor(a, [b.Length, k]), tensor(b), Math.Max(rows, k + 1), seed.Random($"sketch {row}"));
        double[] answer = [.. problem.ConjugateGradients(problem.Start, (int)Math.Ceiling(Math.Log2(1 / Math.Max(accuracy, 1e-7)))).data<double>()];
        for (int c = 0; c < k; c++)
        {
            x[c] = (float)answer[c];
        }
    }

    private sealed class Room(int k)
    {
        public float[] S { get; } = new float[k];

        public float[] P { get; } = new float[k];

        public float[] T { get; } = new float[k];

        public float[] Gram { get; } = new float[k * k];

        public long Sweeps { get; set; }

        public long Sketched { get; set; }
    }
}
