using Espalier.Cli;
using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Cli;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Adaptation;

public sealed class LrmcTests
{
    [Fact]
    public void The_reference_cases_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "lrmc")).Lines).ShouldBe("lrmc: 11/11");

    [Theory]
    [InlineData(LrmcSolver.Exact, 0)]
    [InlineData(LrmcSolver.Approximate, 0)]
    [InlineData(LrmcSolver.Approximate, 2)]
    public void A_low_rank_matrix_comes_back_from_half_of_its_entries(LrmcSolver solver, int sweeps)
    {
        using var scope = NewDisposeScope();
        (Tensor truth, KnownEntries entries) = Problem(60, 45, 3, 0.5);
        long live = Parameters.LiveTensors;
        MatrixCompletion done = new Lrmc { Rank = 3, Rounds = 25, Solver = solver, Sweeps = sweeps }.Complete(entries, TestContext.Current.CancellationToken);
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(live);
        ((done.ToTensor() - truth).norm() / truth.norm()).item<float>().ShouldBeLessThan(1e-4f);
        done[7, 11].ShouldBe(truth[7, 11].item<float>(), 1e-3);
        done.Steps[^1].Residual.ShouldBeLessThan(1e-4);
        done.Empty.ShouldBe(0);
    }

    [Fact]
    public void The_number_of_threads_changes_nothing_and_the_split_uses_every_entry_once()
    {
        using var scope = NewDisposeScope();
        (_, KnownEntries entries) = Problem(40, 30, 2, 0.6);
        var method = new Lrmc { Rank = 2, Threads = 1 };
        float[] one = [.. method.Complete(entries, TestContext.Current.CancellationToken).Left];
        (method with { Threads = 4 }).Complete(entries, TestContext.Current.CancellationToken).Left.ToArray().ShouldBe(one);
        IReadOnlyList<KnownEntries> parts = entries.Split(7, new Random(0));
        parts.Sum(p => p.Count).ShouldBe(entries.Count);
        parts.SelectMany(p => p.List()).Distinct().Count().ShouldBe(entries.Count);
        (method with { Split = true, Rounds = 3 }).Complete(entries, TestContext.Current.CancellationToken).Steps.Count.ShouldBeLessThanOrEqualTo(3);
        entries.Transposed.Transposed.List().ShouldBe(entries.List());
    }

    [Fact]
    public void A_half_step_is_what_the_equations_say_with_a_ridge_or_few_entries_too()
    {
        using var scope = NewDisposeScope();
        (Tensor truth, KnownEntries entries) = Problem(30, 8, 4, 0.3);
        Tensor u = LrmcEquations.Orthonormal(randn(30, 4)), mask = zeros(30, 8);
        foreach ((int i, int j, _) in entries.List())
        {
            mask[i, j] = 1;
        }

        float[] basis = [.. u.to(float32).data<float>()];
        foreach (double ridge in (double[])[0, 0.3])
        {
            foreach (Lrmc method in (Lrmc[])[new() { Rank = 4, Ridge = ridge, Solver = LrmcSolver.Exact }, new() { Rank = 4, Ridge = ridge, Sweeps = 12 }, new() { Rank = 4, Ridge = ridge }])
            {
                var answer = new float[8 * 4];
                new MaskedRegressions(entries.Transposed, basis, 4, method, new Seed(0)).Solve(answer, 1e-6, default);
                for (int j = 0; j < 8; j++)
                {
                    Tensor rows = mask.select(1, j).nonzero().reshape(-1), a = u.index_select(0, rows), b = truth.to(float64).select(1, j).index_select(0, rows);
                    Tensor wanted = ridge == 0 ? LrmcEquations.LeastSquares(a, b) : linalg.solve(a.t().mm(a) + (ridge * eye(4, dtype: float64)), a.t().mv(b));
                    (tensor(answer.Skip(j * 4).Take(4).Select(x => (double)x).ToArray()) - wanted).abs().max().item<double>().ShouldBeLessThan(2e-3 * (1 + wanted.abs().max().item<double>()));
                }
            }
        }
    }

    [Fact]
    public void A_sketch_that_is_singular_gives_way_to_the_exact_answer()
    {
        using var scope = NewDisposeScope();
        Tensor a = randn(20, 3, dtype: float64), b = randn(20, dtype: float64), hash = zeros(20, ScalarType.Int64), sign = ones(20, dtype: float64);
        using var problem = new SketchedRegression(a, b, SketchedRegression.CountSketch(a, hash, sign, 1), SketchedRegression.CountSketch(b, hash, sign, 1));
        (problem.Start - problem.Exact).abs().max().item<double>().ShouldBeLessThan(1e-9);
        using SketchedRegression drawn = SketchedRegression.Draw(a, b, 13, new Random(1));
        drawn.Error(drawn.ConjugateGradients(drawn.Start, 8)).ShouldBeLessThan(1e-8);
    }

    [Fact]
    public void A_repaired_layer_keeps_its_zeros_and_a_low_rank_weight_is_guessed_exactly()
    {
        using var scope = NewDisposeScope();
        Tensor w = randn(24, 2).mm(randn(2, 32)), keep = rand(24, 32).gt(0.4), pruned = w * keep, mean = randn(32);
        var method = new Lrmc { Rank = 2, Rounds = 40 };
        (method.CompleteWeight(pruned, keep) - w).abs().max().item<float>().ShouldBeLessThan(1e-2f);
        PrunedLayer repaired = (method with { Ridge = 1e-6 }).Repair(new LayerContext { Name = "layer", Weight = w, InputMean = mean }, new PrunedLayer(pruned, keep), Pattern.Unstructured(0.4));
        repaired.Weight.ne(0).logical_and(keep.logical_not()).any().item<bool>().ShouldBeFalse();
        (repaired.BiasChange! - (w - pruned).mv(mean)).abs().max().item<float>().ShouldBeLessThan(5e-2f);
        PlanWords.Method<IRepair>("lrmc", ["rank=4", "ridge=0.1"]).ShouldBe(new Lrmc { Rank = 4, Ridge = 0.1 });
    }

    [Fact]
    public void Bad_input_gets_a_sentence()
    {
        Sentence(() => KnownEntries.Of(2, 2, [])).ShouldContain("No entry");
        Sentence(() => KnownEntries.Of(2, 2, [(0, 0, 1), (0, 0, 2)])).ShouldContain("twice");
        Sentence(() => KnownEntries.Of(2, 2, [(0, 5, 1)])).ShouldContain("outside");
        Sentence(() => KnownEntries.Of(2, 2, [(0, 0, float.NaN)])).ShouldContain("NaN");
        Sentence(() => new Lrmc { Rank = 3 }.Complete(KnownEntries.Of(2, 2, [(0, 0, 1)]))).ShouldContain("ranks from 1 to 2");
        Sentence(() => new Lrmc { Rank = 0 }).ShouldContain("rank");
        Sentence(() => new Lrmc { Ridge = -1 }).ShouldContain("ridge");
        Sentence(() => KnownEntries.Of(2, 2, [(0, 0, 1)]).Split(3, new Random(0))).ShouldContain("split");
    }

    [Fact]
    public async Task The_command_completes_ratings_and_measures_held_out_ones()
    {
        using var folder = new TemporaryFolder();
        var random = new Random(3);
        double[] users = [.. Enumerable.Range(0, 30).Select(_ => random.NextDouble())], films = [.. Enumerable.Range(0, 20).Select(_ => random.NextDouble())];
        string[] lines = [.. Enumerable.Range(0, 600).Where(_ => random.Next(2) == 0).Select(i => FormattableString.Invariant($"u{i / 20}\tf{i % 20}\t{1 + (4 * users[i / 20] * films[i % 20])}"))];
        File.WriteAllLines(folder["known.tsv"], lines.Where((_, i) => i % 5 > 0).Prepend("user\tfilm\trating"));
        File.WriteAllLines(folder["held.tsv"], lines.Where((_, i) => i % 5 == 0));
        Tool tool = await Tool.RunAsync("complete", folder["known.tsv"], "--set", "rank=2", "--set", "offsets=true", "--set", "ridge=0.01", "--test", folder["held.tsv"], "--out", folder["out.csv"], "--json");
        tool.Code.ShouldBe(ExitCode.Success, tool.Error);
        tool.Result.GetProperty("rmse").GetDouble().ShouldBeLessThan(tool.Result.GetProperty("offsetsRmse").GetDouble());
        File.ReadAllLines(folder["out.csv"]).Length.ShouldBe(1 + lines.Where((_, i) => i % 5 == 0).Count());
        File.WriteAllText(folder["bad.tsv"], "a b 1\na c x\n");
        Tool bad = await Tool.RunAsync("complete", folder["bad.tsv"]);
        bad.Code.ShouldBe(ExitCode.UserError);
        bad.Error.ShouldContain("Line 2");
    }

    private static string Sentence(Action act) => Should.Throw<EspalierException>(act).Message;

    private static (Tensor Truth, KnownEntries Entries) Problem(int m, int n, int k, double share)
    {
        manual_seed(5);
        Tensor truth = randn(m, k).mm(randn(k, n));
        return (truth, KnownEntries.Of(truth, rand(m, n).lt(share)));
    }
}
