using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

public sealed partial record S2ft
{
    [ParityOp("s2ft.permutation")]
    internal static IReadOnlyDictionary<string, Tensor> PermutationOp(ParityCase c)
    {
        S2ftPermutation moved = S2ftPermutation.Of(Units(c.Input("first")), Units(c.Input("second")), c.Parameter<long>("n"));
        return new Dictionary<string, Tensor> { ["order"] = tensor(moved.Order), ["first_range"] = Range(moved.First), ["second_range"] = Range(moved.Second) };
    }

    [ParityOp("s2ft.co_permute_ffn")]
    internal static IReadOnlyDictionary<string, Tensor> FfnOp(ParityCase c)
    {
        long[] order = Units(c.Input("order"));
        Tensor up = S2ftPermutation.Blocks(c.Input("up"), 0, 1, order), gate = S2ftPermutation.Blocks(c.Input("gate"), 0, 1, order), down = S2ftPermutation.Blocks(c.Input("down"), 1, 1, order);
        Tensor x = c.Input("x");
        Tensor y = nn.functional.linear(nn.functional.silu(nn.functional.linear(x, gate)) * nn.functional.linear(x, up), down);
        return new Dictionary<string, Tensor> { ["up"] = up, ["gate"] = gate, ["down"] = down, ["y"] = y };
    }

    [ParityOp("s2ft.co_permute_mha")]
    internal static IReadOnlyDictionary<string, Tensor> MhaOp(ParityCase c)
    {
        long heads = c.Parameter<long>("n_heads"), width = c.Input("q").shape[0] / heads;
        S2ftPermutation moved = S2ftPermutation.Of([.. Units(c.Input("v_heads")).Order()], [.. Units(c.Input("o_heads")).Order()], heads);
        Dictionary<string, Tensor> result = MovedAttention(c, moved.Order, heads, heads);
        result["v_range"] = Range((moved.First.Start * width, moved.First.End * width));
        result["o_range"] = Range((moved.Second.Start * width, moved.Second.End * width));
        return result;
    }

    [ParityOp("s2ft.co_permute_gqa")]
    internal static IReadOnlyDictionary<string, Tensor> GqaOp(ParityCase c)
    {
        long heads = c.Parameter<long>("n_heads"), groups = c.Parameter<long>("n_kv_heads");
        EspalierException.Require(groups > 0 && heads % groups == 0, $"{heads} query heads cannot be shared out among {groups} key-value heads.");
        long[] order = S2ftPermutation.Of(Units(c.Input("groups")), [], groups).Order;
        Dictionary<string, Tensor> result = MovedAttention(c, order, heads, groups);
        result["order"] = tensor(order);
        return result;
    }

    [ParityOp("s2ft.linear")]
    internal static IReadOnlyDictionary<string, Tensor> LinearOp(ParityCase c)
    {
        string kind = c.Parameter<string>("kind");
        EspalierException.Require(kind is "row" or "column", $"'{kind}' is no kind of s2ft.linear; it is column (outputs) or row (inputs).");
        int axis = kind == "column" ? 0 : 1;
        long start = c.Parameter<long>("start"), end = c.Parameter<long>("end");
        Tensor x = c.Input("x").detach().clone().requires_grad_(), fused = c.Input("weight").clone();
        fused.narrow(axis, start, end - start).add_(c.Input("s2"));
        using var partial = new PartialLinear(fused, axis, start, end);
        Tensor y = partial.Forward(x, fused, c.Optional("bias"));
        (y * c.Input("grad_y")).sum().backward();
        return new Dictionary<string, Tensor> { ["y"] = y.detach(), ["grad_s2"] = partial.Part.grad!.clone(), ["grad_x"] = x.grad!, ["fused_weight"] = fused };
    }

    [ParityOp("s2ft.partial_adamw")]
    internal static IReadOnlyDictionary<string, Tensor> PartialAdamWOp(ParityCase c)
    {
        Tensor weight = c.Input("weight").clone(), gradients = c.Input("grads");
        long start = c.Parameter<long>("start"), end = c.Parameter<long>("end");
        Tensor part = weight.narrow((int)c.Parameter<long>("axis"), start, end - start), m = zeros_like(part), v = zeros_like(part);
        var rule = new PartialAdamW.Rule(c.Parameter<double>("beta1"), c.Parameter<double>("beta2"), c.Parameter<double>("eps"), c.Parameter<double>("weight_decay"), c.Parameter<bool>("correct_bias"));
        for (long step = 0; step < gradients.shape[0]; step++)
        {
            PartialAdamW.Step(rule, c.Parameter<double>("lr"), step + 1, part, gradients[step], m, v, weight);
        }

        return new Dictionary<string, Tensor> { ["weight"] = weight, ["exp_avg"] = m, ["exp_avg_sq"] = v };
    }

    [ParityOp("s2ft.adapters")]
    internal static IReadOnlyDictionary<string, Tensor> AdaptersOp(ParityCase c)
    {
        Tensor weight = c.Input("weight"), delta = c.Input("delta"), indices = c.Input("indices"), x = c.Input("x"), fused = weight.clone();
        int axis = (int)c.Parameter<long>("axis");
        double[] lambda = [.. c.Input("lambda").to(ScalarType.Float64).data<double>()];
        var y = new List<Tensor>();
        for (int k = 0; k < lambda.Length; k++)
        {
            S2ftDelta.Scatter(fused, delta[k], indices[k], axis, lambda[k]);
            y.Add(S2ftDelta.Serve(weight, delta[k], indices[k], axis, x[k]));
        }

        return new Dictionary<string, Tensor> { ["fused"] = fused, ["y"] = stack(y) };
    }

    /// <summary>Attention with its head blocks moved: the answers stay.</summary>
    private static Dictionary<string, Tensor> MovedAttention(ParityCase c, long[] order, long heads, long groups)
    {
        Tensor x = c.Input("x");
        long width = c.Input("k").shape[0] / groups, served = heads / groups;
        Tensor q = S2ftPermutation.Blocks(c.Input("q"), 0, served * width, order), k = S2ftPermutation.Blocks(c.Input("k"), 0, width, order), v = S2ftPermutation.Blocks(c.Input("v"), 0, width, order);
        Tensor o = S2ftPermutation.Blocks(c.Input("o"), 1, served * width, order);
        Tensor Heads(Tensor weight, long count) => nn.functional.linear(x, weight).view(x.shape[0], x.shape[1], count, width).transpose(1, 2);
        Tensor keys = Heads(k, groups).repeat_interleave(served, 1), values = Heads(v, groups).repeat_interleave(served, 1);
        Tensor attention = (Heads(q, heads).matmul(keys.transpose(-2, -1)) / Math.Sqrt(width)).softmax(-1);
        Tensor y = nn.functional.linear(attention.matmul(values).transpose(1, 2).reshape(x.shape[0], x.shape[1], -1), o);
        return new Dictionary<string, Tensor> { ["q"] = q, ["k"] = k, ["v"] = v, ["o"] = o, ["y"] = y };
    }

    private static long[] Units(Tensor list) => [.. list.reshape(-1).to(ScalarType.Int64).data<long>()];

    private static Tensor Range((long Start, long End) range) => tensor([range.Start, range.End]);
}
