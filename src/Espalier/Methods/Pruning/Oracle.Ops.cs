using Espalier.Catalogue;
using Espalier.Evaluation;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Oracle
{
    [ParityOp("oracle.combinations")]
    internal static IReadOnlyDictionary<string, Tensor> CombinationsOp(ParityCase c)
    {
        UnitCombinations all = UnitCombinations.All([.. c.Raw("layers").EnumerateArray().Select(l => (l[0].GetInt32(), l[1].GetDouble()))], int.MaxValue);
        return new Dictionary<string, Tensor>
        {
            ["pruned"] = Table(all), ["n_pruned"] = tensor(all.Removed.Select(k => (long)k).ToArray()), ["count"] = tensor((long)all.Choices.Count),
        };
    }

    [ParityOp("oracle.pruned_train_loss")]
    internal static IReadOnlyDictionary<string, Tensor> PrunedLossOp(ParityCase c)
    {
        Tensor X = c.Input("X").to(ScalarType.Float64), y = c.Input("y").to(ScalarType.Int64), W1 = c.Input("W1").to(ScalarType.Float64), W2 = c.Input("W2").to(ScalarType.Float64);
        UnitCombinations all = UnitCombinations.All([((int)W1.shape[0], c.Parameter<double>("prune_ratio"))], int.MaxValue);
        Tensor hidden = X.matmul(W1.t()).add(c.Input("b1").to(ScalarType.Float64)).relu();
        double[] losses = [.. all.Choices.Select(choice =>
        {
            using var scope = NewDisposeScope();
            Tensor kept = hidden.index_fill(1, tensor(choice[0].Select(u => (long)u).ToArray()), 0);
            return nn.functional.cross_entropy(kept.matmul(W2.t()).add(c.Input("b2").to(ScalarType.Float64)), y).item<double>();
        })];
        long[] order = [.. Enumerable.Range(0, losses.Length).OrderBy(i => losses[i]).Select(i => (long)i)];
        return new Dictionary<string, Tensor>
        {
            ["combinations"] = Table(all), ["loss"] = tensor(losses), ["best"] = tensor(order[0]), ["order"] = tensor(order.Take(5).ToArray()),
        };
    }

    [ParityOp("oracle.correlation")]
    internal static IReadOnlyDictionary<string, Tensor> CorrelationOp(ParityCase c)
    {
        double[] x = Numbers(c, "x"), y = Numbers(c, "y");
        RankCorrelation rank = RankCorrelation.Kendall(x, y);
        bool varies = !double.IsNaN(rank.Tau);
        return new Dictionary<string, Tensor>
        {
            ["kendall_tau_b"] = tensor(rank.Tau), ["p_auto"] = tensor(rank.P), ["p_asymptotic"] = tensor(rank.PAsymptotic),
            ["spearman"] = tensor(varies ? Correlation.Spearman(x, y) : double.NaN), ["pearson"] = tensor(varies ? Correlation.Pearson(x, y) : double.NaN),
        };
    }

    [ParityOp("oracle.validity_summary")]
    internal static IReadOnlyDictionary<string, Tensor> ValidityOp(ParityCase c)
    {
        long[] ids = c.Input("combination").to(ScalarType.Int64).data<long>().ToArray();
        double[] scores = Numbers(c, "pruned_train_loss"), losses = Numbers(c, "final_test_loss"), accuracies = Numbers(c, "final_test_acc");
        OracleVerdict verdict = OracleVerdict.Of(ids.Select((id, i) => new OracleRun(id, scores[i], losses[i], accuracies[i])));
        return new Dictionary<string, Tensor>
        {
            ["mean_pruned_loss"] = tensor(verdict.Means.Select(m => m.Score).ToArray()),
            ["mean_final_loss"] = tensor(verdict.Means.Select(m => m.FinalLoss).ToArray()),
            ["mean_final_acc"] = tensor(verdict.Means.Select(m => m.FinalAccuracy).ToArray()),
            ["kendall_loss"] = tensor(verdict.Loss.Tau), ["p_loss"] = tensor(verdict.Loss.P), ["kendall_acc"] = tensor(verdict.Accuracy.Tau), ["p_acc"] = tensor(verdict.Accuracy.P),
            ["anomaly_loss"] = tensor(verdict.AnomalyLoss), ["anomaly_acc"] = tensor(verdict.AnomalyAccuracy),
            ["valid_loss"] = tensor(verdict.ValidForLoss ? 1.0 : 0), ["valid_acc"] = tensor(verdict.ValidForAccuracy ? 1.0 : 0), ["best_combination"] = tensor(verdict.Best.Combination),
        };
    }

    private static double[] Numbers(ParityCase c, string name) => c.Input(name).to(ScalarType.Float64).data<double>().ToArray();

    private static Tensor Table(UnitCombinations all) =>
        tensor(all.Choices.SelectMany(c => c).SelectMany(u => u).Select(u => (long)u).ToArray()).reshape(all.Choices.Count, all.Removed.Sum());
}
