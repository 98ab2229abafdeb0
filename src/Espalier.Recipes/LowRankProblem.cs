using Espalier.Methods.Adaptation;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>A square product of Gaussian factors of which some entries are known.</summary>
/// <param name="Entries">What is known.</param>
internal sealed record LowRankProblem(KnownEntries Entries)
{
    private readonly float[] _truth = [];

    private LowRankProblem(KnownEntries entries, float[] truth)
        : this(entries) => _truth = truth;

    /// <summary>Draws one.</summary>
    /// <param name="n">Rows and columns.</param>
    /// <param name="k">The rank.</param>
    /// <param name="known">Known entries; at most half of all.</param>
    /// <param name="seed">Of factors and places.</param>
    /// <param name="purpose">Which problem.</param>
    public static LowRankProblem Draw(int n, int k, long known, Seed seed, string purpose)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using Generator generator = seed.Generator($"factors, {purpose}");
        float[] truth = [.. randn([n, k], generator: generator).mm(randn([k, n], generator: generator)).data<float>()];
        Random random = seed.Random($"known entries, {purpose}");
        long left = Math.Min(known, (long)n * n / 2), places = (long)n * n;
        var entries = new List<(int, int, float)>((int)left);
        for (int i = 0; i < truth.Length; i++, places--)
        {
            // Each place is taken with the chance that makes the number exact.
            if (random.NextInt64(places) < left)
            {
                entries.Add((i / n, i % n, truth[i]));
                left--;
            }
        }

        return new LowRankProblem(KnownEntries.Of(n, n, entries), truth);
    }

    /// <summary>Completes it, and says after how many rounds the relative error over all entries was at most 1e-3 (one more than all where it never was) and what it ended at.</summary>
    public (int Rounds, double Error) Recover(Lrmc method, CancellationToken cancellation)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor truth = tensor(_truth, [Entries.Rows, Entries.Columns]);
        MatrixCompletion done = method.Complete(Entries, cancellation);
        double error = Error(done);
        // The residual on half of the entries and the error go together: rounds are counted by completing again with fewer.
        int low = 1, high = done.Steps.Count;
        if (error > 1e-3)
        {
            return (method.Rounds + 1, error);
        }

        while (low < high)
        {
            int middle = (low + high) / 2;
            (low, high) = Error((method with { Rounds = middle }).Complete(Entries, cancellation)) <= 1e-3 ? (low, middle) : (middle + 1, high);
        }

        return (low, error);

        double Error(MatrixCompletion some) => ((some.ToTensor() - truth).norm() / truth.norm()).item<float>();
    }
}
