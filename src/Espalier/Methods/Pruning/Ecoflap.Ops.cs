using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial class Ecoflap
{
    [ParityOp("ecoflap.allocate")]
    internal static IReadOnlyDictionary<string, Tensor> AllocateOp(ParityCase c)
    {
        EcoflapAllocation a = Allocate([.. c.Input("scores").to(ScalarType.Float32).data<float>()], [.. c.Input("numel").data<long>()],
            c.Parameter<double>("sparsity"), c.Parameter<double>("max_sparsity"), Word<EcoflapOvershoot>(c, "overshoot", "add"));
        return new Dictionary<string, Tensor>
        {
            ["sparsity"] = tensor(a.Sparsity.ToArray()).to(ScalarType.Float32),
            ["keep"] = tensor(a.Keep.ToArray()),
        };
    }

    [ParityOp("ecoflap.zo_score")]
    internal static IReadOnlyDictionary<string, Tensor> ZerothOrderScoreOp(ParityCase c)
    {
        using var _ = no_grad();
        Tensor[] W = [c.Input("W1").to(ScalarType.Float64).clone(), c.Input("W2").to(ScalarType.Float64).clone()];
        Tensor X = c.Input("X").to(ScalarType.Float64), Y = c.Input("Y");
        int draws = c.Parameter("num_noise", 1);
        EcoflapScore kind = Word<EcoflapScore>(c, "kind", "GradOnly");
        var gradients = new double[2];
        for (int t = 0; t < 2; t++)
        {
            Tensor Z = c.Input(t == 0 ? "Z1" : "Z2");
            gradients[t] = ProjectedGradientSum(W[t], (int)X.shape[0], draws, c.Parameter<double>("eps"),
                b => NetworkLoss(W[0], W[1], X[b], Y[b]).item<double>(), (b, j) => Z[b * draws + j], $"W{t + 1}");
        }

        double[] scores = [.. gradients.Select((g, t) => ZerothOrderImportance(W[t], g, kind))];
        return new Dictionary<string, Tensor> { ["grad"] = tensor(gradients), ["score"] = tensor(scores) };
    }

    [ParityOp("ecoflap.fo_score")]
    internal static IReadOnlyDictionary<string, Tensor> FirstOrderScoreOp(ParityCase c)
    {
        Tensor W1 = c.Input("W1").clone().requires_grad_(true), W2 = c.Input("W2").clone().requires_grad_(true);
        Tensor X = c.Input("X"), Y = c.Input("Y");
        EcoflapScore kind = Word<EcoflapScore>(c, "kind", "GradOnly");
        IList<Tensor>[] gradients = [.. Enumerable.Range(0, (int)X.shape[0]).Select(b => autograd.grad([NetworkLoss(W1, W2, X[b], Y[b])], [W1, W2]))];
        Tensor I1 = FirstOrderImportance(W1, gradients.Select(g => g[0]), kind);
        Tensor I2 = FirstOrderImportance(W2, gradients.Select(g => g[1]), kind);
        string aggregate = c.Parameter("aggregate", "sum");
        EspalierException.Require(aggregate is "sum" or "avg", $"'{aggregate}' is no aggregate of scores; use sum or avg.");
        Tensor score = stack(aggregate == "avg" ? [I1.mean(), I2.mean()] : [I1.sum(), I2.sum()]);
        return new Dictionary<string, Tensor> { ["I1"] = I1, ["I2"] = I2, ["score"] = score };
    }

    [ParityOp("ecoflap.global_mask")]
    internal static IReadOnlyDictionary<string, Tensor> GlobalMaskOp(ParityCase c)
    {
        IReadOnlyList<Tensor> keep = GlobalMask([c.Input("a"), c.Input("b"), c.Input("c")], c.Parameter<double>("sparsity"), c.Parameter<double>("max_sparsity"));
        return new Dictionary<string, Tensor> { ["keep_a"] = keep[0], ["keep_b"] = keep[1], ["keep_c"] = keep[2] };
    }

    /// <summary>Mean cross-entropy of relu(X W1ᵀ) W2ᵀ over the rows of one batch.</summary>
    private static Tensor NetworkLoss(Tensor W1, Tensor W2, Tensor X, Tensor Y) =>
        nn.functional.cross_entropy(X.matmul(W1.t()).relu().matmul(W2.t()), Y);

    private static T Word<T>(ParityCase c, string name, string fallback)
        where T : struct, Enum
    {
        string word = c.Parameter(name, fallback);
        EspalierException.Require(Enum.TryParse(word, ignoreCase: true, out T value), $"The {name} '{word}' is not known; use one of {string.Join(", ", Enum.GetNames<T>())}.");
        return value;
    }
}
