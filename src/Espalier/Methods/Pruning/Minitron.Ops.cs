using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial class Minitron
{
    [ParityOp("minitron.width_importance")]
    internal static IReadOnlyDictionary<string, Tensor> WidthImportanceOp(ParityCase c)
    {
        WidthRanking found = WidthImportance(c.Input("acts"), Aggregation(c.Parameter("batch", "l2")), Aggregation(c.Parameter("seq", "mean")));
        return new Dictionary<string, Tensor> { ["per_layer"] = found.PerLayer, ["score"] = found.Score, ["ranking"] = found.Ranking };
    }

    [ParityOp("minitron.head_importance")]
    internal static IReadOnlyDictionary<string, Tensor> HeadImportanceOp(ParityCase c)
    {
        HeadRanking found = HeadImportance(c.Input("acts"), c.Parameter<int>("heads"), c.Parameter<int>("groups"), c.Parameter<int>("head_dim"));
        return new Dictionary<string, Tensor>
        {
            ["channel_score"] = found.ChannelScore, ["head_score"] = found.HeadScore, ["head_score_paper"] = found.PaperScore, ["order_within_group"] = found.OrderWithinGroup,
        };
    }

    [ParityOp("minitron.block_importance")]
    internal static IReadOnlyDictionary<string, Tensor> BlockImportanceOp(ParityCase c) =>
        new Dictionary<string, Tensor> { ["bi"] = tensor(BlockImportance(c.Input("x_in"), c.Input("x_out"))) };

    [ParityOp("minitron.head_residual")]
    internal static IReadOnlyDictionary<string, Tensor> HeadResidualOp(ParityCase c) =>
        new Dictionary<string, Tensor> { ["W_new"] = HeadResidual(c.Input("W"), c.Parameter<int>("keep")) };

    [ParityOp("minitron.logit_loss")]
    internal static IReadOnlyDictionary<string, Tensor> LogitLossOp(ParityCase c)
    {
        Tensor student = Leaf(c.Input("student"));
        Tensor loss = LogitLoss(student, c.Input("teacher"), c.Parameter("tau", 1.0), c.Parameter("kind", "kld") switch
        {
            "kld" => LogitDistance.Kld,
            "rkld" => LogitDistance.Rkld,
            "mse" => LogitDistance.Mse,
            "cosine" => LogitDistance.Cosine,
            string other => throw new EspalierException($"'{other}' is no distance of predictions; there are kld, rkld, mse and cosine."),
        });
        loss.backward();
        return new Dictionary<string, Tensor> { ["loss"] = loss, ["grad"] = student.grad! };
    }

    [ParityOp("minitron.total_loss")]
    internal static IReadOnlyDictionary<string, Tensor> TotalLossOp(ParityCase c)
    {
        string kind = c.Parameter("hidden_loss", "mse");
        EspalierException.Require(kind == "mse", $"'{kind}' is no distance of hidden states; there is mse.");
        Tensor student = Leaf(c.Input("student")), h = Leaf(c.Input("h_student")), P = Leaf(c.Input("P"));
        MinitronLoss total = TotalLoss(student, c.Input("teacher"), new HiddenPair(h, c.Input("h_teacher"), P), c.Input("labels"),
            c.Parameter("use_clm", false), c.Parameter("tau", 1.0));
        total.Loss.backward();
        return new Dictionary<string, Tensor>
        {
            ["loss"] = total.Loss, ["logits_loss"] = total.Logits, ["hidden_loss"] = total.Hidden, ["clm_loss"] = total.CrossEntropy!, ["alpha"] = total.Alpha,
            ["g_student"] = student.grad!, ["g_h"] = h.grad!, ["g_P"] = P.grad!,
        };
    }

    [ParityOp("minitron.nas_enumerate")]
    internal static IReadOnlyDictionary<string, Tensor> EnumerateOp(ParityCase c)
    {
        var space = new MinitronSpace
        {
            Layers = c.Parameter<long[]>("layers"), Heads = c.Parameter<long[]>("heads"), FeedForward = c.Parameter<long[]>("ffn"), Embedding = c.Parameter<long[]>("embed"),
            Vocabulary = c.Parameter<long>("vocab"), HeadDim = c.Parameter<long>("head_dim"), KeyValueHeads = c.Parameter("kv_heads", 0L),
            Gated = c.Parameter("gated", true), Tied = c.Parameter("tied", false),
        };
        IReadOnlyList<MinitronCandidate> found = Enumerate(space, c.Parameter<long>("target"), c.Parameter("tolerance", 0.05));
        long[] rows = [.. found.SelectMany(f => new[] { f.Layers, f.Heads, f.FeedForward, f.Embedding, f.Parameters })];
        return new Dictionary<string, Tensor>
        {
            ["candidates"] = rows.Length == 0 ? zeros([0, 5], ScalarType.Int64) : tensor(rows, ScalarType.Int64).reshape(-1, 5),
            ["count"] = tensor((long)found.Count),
        };
    }

    private static Tensor Leaf(Tensor input) => input.detach().clone().requires_grad_(true);

    private static MinitronAggregation Aggregation(string word) => word switch
    {
        "mean" => MinitronAggregation.Mean,
        "l2" => MinitronAggregation.L2,
        "var" => MinitronAggregation.Var,
        _ => throw new EspalierException($"'{word}' is no aggregation; there are mean, l2 and var."),
    };
}
