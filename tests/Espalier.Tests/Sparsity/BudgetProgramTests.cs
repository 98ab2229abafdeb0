using Espalier.Runtime;
using Espalier.Sparsity;
using Google.OrTools.Sat;

namespace Espalier.Tests.Sparsity;

public sealed class BudgetProgramTests
{
    [Fact]
    public void The_choice_is_the_best_of_all_and_says_so()
    {
        Random random = new Seed(1).Random("budgets");
        for (int trial = 0; trial < 60; trial++)
        {
            (double[][] costs, double[][] weights, double budget) = Instance(random, 1 + (trial % 6), 1 + (trial % 5), whole: trial % 2 == 0);
            BudgetChoice choice = BudgetProgram.Solve(costs, weights, budget);
            choice.Weight.ShouldBeLessThanOrEqualTo(budget * (1 + 1e-9));
            choice.Cost.ShouldBe(Best(costs, weights, budget), 1e-9);
            choice.Gap.ShouldBeLessThan(1e-9);
            choice.Choices.Select((k, i) => weights[i][k]).Sum().ShouldBe(choice.Weight);
        }
    }

    [Fact]
    public void Many_items_are_solved_exactly_in_no_time()
    {
        Random random = new Seed(2).Random("budgets");
        (double[][] costs, double[][] weights, double budget) = Instance(random, 200, 24, whole: false);
        BudgetChoice choice = BudgetProgram.Solve(costs, weights, budget);
        choice.Gap.ShouldBeLessThan(1e-6);
        choice.Weight.ShouldBeLessThanOrEqualTo(budget * (1 + 1e-9));
    }

    [Fact]
    public void Another_solver_finds_nothing_better()
    {
        Random random = new Seed(4).Random("budgets");
        for (int trial = 0; trial < 5; trial++)
        {
            (double[][] costs, double[][] weights, double budget) = Instance(random, 30, 8, whole: true);
            var model = new CpModel();
            BoolVar[][] x = [.. costs.Select((row, i) => row.Select((_, k) => model.NewBoolVar($"{i} {k}")).ToArray())];
            foreach (BoolVar[] item in x)
            {
                model.AddExactlyOne(item);
            }

            LinearExpr Sum(double[][] table) => LinearExpr.WeightedSum(x.SelectMany(item => item), table.SelectMany(row => row).Select(v => (long)v));
            model.Add(Sum(weights) <= (long)Math.Floor(budget));
            model.Minimize(Sum(costs));
            var solver = new CpSolver { StringParameters = "num_workers:1" };
            solver.Solve(model).ShouldBe(CpSolverStatus.Optimal);
            BudgetProgram.Solve(costs, weights, budget).Cost.ShouldBe(solver.ObjectiveValue, 1e-6);
        }
    }

    [Fact]
    public void Too_few_sums_report_a_gap_that_holds_the_best()
    {
        Random random = new Seed(3).Random("budgets");
        (double[][] costs, double[][] weights, double budget) = Instance(random, 6, 5, whole: false);
        BudgetChoice few = BudgetProgram.Solve(costs, weights, budget, mostSums: 1);
        double best = Best(costs, weights, budget);
        few.Cost.ShouldBeGreaterThanOrEqualTo(best - 1e-9);
        few.Bound.ShouldBeLessThanOrEqualTo(best + 1e-9);
    }

    [Fact]
    public void Sums_equal_to_the_budget_are_allowed_and_below_the_smallest_are_refused()
    {
        BudgetProgram.Solve([[3, 1], [5, 2]], [[1, 2], [1, 2]], 4).Cost.ShouldBe(3);
        BudgetProgram.Solve([[3, 1], [5, 2]], [[0.1, 0.2], [0.1, 0.2]], 0.1 + 0.2).Cost.ShouldBe(5);
        Should.Throw<EspalierException>(() => BudgetProgram.Solve([[3, 1], [5, 2]], [[1, 2], [1, 2]], 1.5)).Message.ShouldContain("together need 2");
        Should.Throw<EspalierException>(() => BudgetProgram.Solve([[1]], [[1, 2]], 5)).Message.ShouldContain("a cost and a weight for each");
    }

    private static (double[][] Costs, double[][] Weights, double Budget) Instance(Random random, int items, int configurations, bool whole)
    {
        double[][] weights = [.. Enumerable.Range(0, items).Select(_ => Enumerable.Range(0, configurations).Select(_ => whole ? random.Next(1, 30) : 1 + (29 * random.NextDouble())).ToArray())];
        double[][] costs = [.. weights.Select(row => row.Select(w => whole ? random.Next(0, 20) : (5 / w) + random.NextDouble()).ToArray())];
        (double low, double high) = (weights.Sum(w => w.Min()), weights.Sum(w => w.Max()));
        return (costs, weights, low + ((high - low) * random.NextDouble()));
    }

    private static double Best(double[][] costs, double[][] weights, double budget)
    {
        double Rest(int item, double left) => item == costs.Length ? 0
            : Enumerable.Range(0, costs[item].Length).Where(k => weights[item][k] <= left + 1e-9).Select(k => costs[item][k] + Rest(item + 1, left - weights[item][k])).DefaultIfEmpty(double.PositiveInfinity).Min();
        return Rest(0, budget);
    }
}
