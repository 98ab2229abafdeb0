using System.Diagnostics;
using Espalier.Runtime;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Espalier.Methods.Adaptation;

/// <summary>The alternation on sparse entries, in float32; nothing of the size m × n is ever held.</summary>
internal sealed class LrmcRun
{
    private const int StartSweeps = 8, StartExtra = 5;

    private readonly Lrmc _options;
    private readonly CancellationToken _cancellation;
    private readonly Seed _seed;
    private readonly KnownEntries _entries;
    private readonly IReadOnlyList<KnownEntries>? _parts;
    private readonly int _m, _n, _k;
    private long _sweeps, _sketched;

    public LrmcRun(Lrmc options, KnownEntries entries, CancellationToken cancellation)
    {
        (_options, _entries, _cancellation, _seed) = (options, entries, cancellation, new Seed(options.Seed));
        (_m, _n, _k) = (entries.Rows, entries.Columns, options.Rank);
        _parts = options.Split ? entries.Split((2 * options.Rounds) + 1, _seed.Random("split")) : null;
    }

    public MatrixCompletion Run(EntryOffsets? offsets)
    {
        float[] u = Start(_parts?[0] ?? _entries), v = new float[_n * _k], vWide = new float[_n * _k], uWide = new float[_m * _k];
        var steps = new List<CompletionRound>();
        double norm = _entries.Norm, last = double.PositiveInfinity, accuracy = 0.1;
        for (int t = 0; t < _options.Rounds; t++)
        {
            _cancellation.ThrowIfCancellationRequested();
            var clock = Stopwatch.StartNew();
            _sweeps = 0;
            HalfStep((_parts?[(2 * t) + 1] ?? _entries).Transposed, u, vWide, accuracy, $"columns of round {t}");
            (v, float[] rv) = Factor(vWide, _n);
            // M ≈ U·V̂ᵀ = (U·R_Vᵀ)·Vᵀ: the rows start there.
            uWide = Multiply(u, rv, _m);
            HalfStep(_parts?[(2 * t) + 2] ?? _entries, v, uWide, accuracy, $"rows of round {t}");
            (float[] next, float[] ru) = Factor(uWide, _m);
            double change = Distance(u, next), residual = norm == 0 ? 0 : Residual(uWide, v) / norm;
            u = next;
            vWide = Multiply(v, ru, _n);
            accuracy = Math.Clamp(0.3 * change, 1e-7, 0.1);
            steps.Add(new CompletionRound(residual, change, (double)_sweeps / (_m + _n), clock.Elapsed.TotalSeconds));
            if (Math.Abs(last - residual) < _options.Tolerance)
            {
                break;
            }

            last = residual;
        }

        int[] counts = [.. Enumerable.Range(0, _m).Select(i => _entries.ColumnsOf(i).Length), .. Enumerable.Range(0, _n).Select(j => _entries.Transposed.ColumnsOf(j).Length)];
        return new MatrixCompletion(_m, _n, _k, uWide, v, offsets)
        {
            Steps = steps,
            Empty = counts.Count(c => c == 0),
            Thin = counts.Count(c => c > 0 && c < _k),
            Sketched = _sketched,
        };
    }

    private void HalfStep(KnownEntries entries, float[] basis, float[] answer, double accuracy, string purpose)
    {
        var regressions = new MaskedRegressions(entries, basis, _k, _options, new Seed(_seed.For(purpose)));
        regressions.Solve(answer, accuracy, _cancellation);
        _sweeps += regressions.Sweeps;
        _sketched += regressions.Sketched;
    }

    // Step 2 by subspace iteration on the sparse entries.
    private float[] Start(KnownEntries entries)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using Generator generator = _seed.Generator("start");
        int width = Math.Min(_k + StartExtra, Math.Min(_m, _n));
        Tensor b = randn([_n, width], generator: generator), y = b;
        for (int sweep = 0; sweep < StartSweeps; sweep++)
        {
            y = linalg.qr(Matrix(entries.Multiply(Numbers(b), width), _m)).Item1;
            b = Matrix(entries.Transposed.Multiply(Numbers(y), width), _n);
            if (sweep < StartSweeps - 1)
            {
                b = linalg.qr(b).Item1;
            }
        }

        // y·(yᵀP) ≈ P: the small factor's left vectors turn y into P's.
        Tensor u = y.mm(linalg.svd(b.t(), fullMatrices: false).Item1).narrow(1, 0, _k);
        if (_options.Clip is { } mu)
        {
            Tensor clipped = u.pow(2).sum(dim: 1).sqrt().gt(2 * mu * Math.Sqrt((double)_k / _m));
            EspalierException.Require(!clipped.all().item<bool>(), FormattableString.Invariant($"A clip of {mu} sets every row of the start to 0; use 1 or more, or leave it out."));
            u = linalg.qr(u.masked_fill(clipped.unsqueeze(1), 0)).Item1;
        }

        return Numbers(u);

        Tensor Matrix(float[] values, int rows) => tensor(values, [rows, width]);
    }

    private (float[] Q, float[] R) Factor(float[] wide, int rows)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        (Tensor q, Tensor r) = linalg.qr(tensor(wide, [rows, _k]));
        return (Numbers(q), Numbers(r));
    }

    // A·Rᵀ.
    private float[] Multiply(float[] a, float[] r, int rows)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        return Numbers(tensor(a, [rows, _k]).mm(tensor(r, [_k, _k]).t()));
    }

    private double Distance(float[] a, float[] b)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor qa = tensor(a, [_m, _k]), qb = tensor(b, [_m, _k]), rest = qb - qa.mm(qa.t().mm(qb));
        return Math.Sqrt(Math.Max(0, linalg.eigvalsh(rest.t().mm(rest).to(ScalarType.Float64)).max().item<double>()));
    }

    private double Residual(float[] left, float[] right)
    {
        double sum = 0;
        for (int i = 0; i < _m; i++)
        {
            ReadOnlySpan<int> known = _entries.ColumnsOf(i);
            ReadOnlySpan<float> values = _entries.ValuesOf(i);
            ReadOnlySpan<float> row = left.AsSpan(i * _k, _k);
            for (int e = 0; e < known.Length; e++)
            {
                double off = TensorPrimitives.Dot(row, right.AsSpan(known[e] * _k, _k)) - values[e];
                sum += off * off;
            }
        }

        return Math.Sqrt(sum);
    }

    private static float[] Numbers(Tensor values)
    {
        using Tensor plain = values.contiguous();
        return [.. plain.data<float>()];
    }
}
