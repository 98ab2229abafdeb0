using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial class ProSparse
{
    [ParityOp("prosparse.lambda_schedule")]
    internal static IReadOnlyDictionary<string, Tensor> LambdaScheduleOp(ParityCase c)
    {
        long[] ends = [.. c.Parameter<double[]>("ends").Select(e => (long)e)];
        var schedule = new ActivationPenaltySchedule(c.Parameter<double[]>("peaks"), ends, c.Parameter<long>("substitution_end", 0));
        double[] factors = [.. c.Input("steps").data<long>().Select(schedule.Factor)];
        return new Dictionary<string, Tensor> { ["factor"] = tensor(factors) };
    }

    [ParityOp("prosparse.ffn")]
    internal static IReadOnlyDictionary<string, Tensor> FeedForwardOp(ParityCase c)
    {
        string word = c.Parameter("activation", "relu");
        EspalierException.Require(Enum.TryParse(word, ignoreCase: true, out FeedForwardActivation activation), $"The activation '{word}' is not known; use relu, fatrelu or silu.");

        // In double, so that rounding cannot carry a gate over the threshold.
        Tensor Leaf(string name) => c.Input(name).detach().to(ScalarType.Float64).clone().requires_grad_(true);
        Tensor X = Leaf("X"), Ws = Leaf("Ws"), W1 = Leaf("W1"), W2 = Leaf("W2");
        (Tensor y, Tensor x1) = FeedForward(X, Ws, W1, W2, activation, c.Parameter("threshold", 0.0));
        Tensor l1 = ActivationL1(x1);
        IList<Tensor> g = autograd.grad([(y * c.Input("gy")).sum() + l1 * c.Parameter("lambda", 0.0)], [X, Ws, W1, W2]);
        return new Dictionary<string, Tensor>
        {
            ["y"] = y,
            ["x1"] = x1,
            ["sparsity"] = tensor(ActivationSparsity(x1)),
            ["l1"] = l1,
            ["gX"] = g[0],
            ["gWs"] = g[1],
            ["gW1"] = g[2],
            ["gW2"] = g[3],
        };
    }

    [ParityOp("prosparse.predictor_metrics")]
    internal static IReadOnlyDictionary<string, Tensor> PredictorMetricsOp(ParityCase c)
    {
        (double recall, double predicted, double truly) = PredictorMetrics(c.Input("x1"), c.Input("predicted_active"));
        return new Dictionary<string, Tensor> { ["recall"] = tensor(recall), ["predicted_sparsity"] = tensor(predicted), ["true_sparsity"] = tensor(truly) };
    }
}
