using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Wgsef
{
    [ParityOp("wgsef.value")]
    internal static IReadOnlyDictionary<string, Tensor> ValueOp(ParityCase c)
    {
        (Tensor group, double[] costs) = Grouping(c);
        double[] norms = GroupEnvelope.Norms(c.Input("w"), group, costs.Length);
        double[] shares = GroupEnvelope.Shares(norms, costs, c.Parameter<double>("k"), 0);
        return new Dictionary<string, Tensor> { ["value"] = tensor(GroupEnvelope.Value(norms, shares)), ["u"] = tensor(shares), ["group_norm"] = tensor(norms) };
    }

    [ParityOp("wgsef.prox")]
    internal static IReadOnlyDictionary<string, Tensor> ProxOp(ParityCase c)
    {
        (Tensor group, double[] costs) = Grouping(c);
        (Tensor w, double[] shares) = Prox(c.Input("w").to(ScalarType.Float64), group, costs, c.Parameter<double>("k"), c.Parameter<double>("lam"));
        return new Dictionary<string, Tensor>
        {
            ["w_new"] = w, ["u"] = tensor(shares), ["n_nonzero_groups"] = tensor((long)GroupEnvelope.Norms(w, group, costs.Length).Count(a => a > 0)),
        };
    }

    [ParityOp("wgsef.prox_layer")]
    internal static IReadOnlyDictionary<string, Tensor> ProxLayerOp(ParityCase c)
    {
        Tensor weight = c.Input("weight").to(ScalarType.Float64);
        string kind = c.Parameter<string>("groups");
        EspalierException.Require(kind is "filter" or "channel", $"The groups '{kind}' of a layer are not known; use filter or channel.");
        Tensor group = AlongAxis(weight.shape, kind == "filter" ? 0 : 1);
        int count = (int)weight.shape[kind == "filter" ? 0 : 1];
        double k = c.Parameter<double>("k");
        (Tensor proximal, double[] shares) = Prox(weight, group, Equal(count), k, c.Parameter<double>("lam"));
        int[] kept = GroupEnvelope.Largest(GroupEnvelope.Norms(proximal, group, count), (int)k);
        Tensor alive = tensor([.. Enumerable.Range(0, count).Select(j => kept.Contains(j))]).index_select(0, group).view(weight.shape);
        return new Dictionary<string, Tensor>
        {
            ["weight_new"] = proximal, ["u"] = tensor(shares), ["projected"] = proximal * alive, ["kept"] = tensor([.. kept.Select(j => (long)j)], ScalarType.Int64),
        };
    }

    [ParityOp("wgsef.prox_sgd")]
    internal static IReadOnlyDictionary<string, Tensor> ProxSgdOp(ParityCase c)
    {
        (Tensor a, Tensor y, Tensor w) = (c.Input("A").to(ScalarType.Float64), c.Input("y").to(ScalarType.Float64), c.Input("w0").to(ScalarType.Float64));
        (Tensor group, Tensor batches) = (c.Input("group"), c.Input("batches"));
        double[] costs = Equal(CountOf(group));
        (double k, double rate, double lambda) = (c.Parameter<double>("k"), c.Parameter<double>("lr"), c.Parameter<double>("lam"));
        var path = new List<Tensor>();
        for (long step = 0; step < batches.shape[0]; step++)
        {
            Tensor rows = batches[step], x = a.index_select(0, rows);
            Tensor gradient = x.t().mv(x.mv(w) - y.index_select(0, rows)) / rows.shape[0];
            (w, _) = Prox(w - (rate * gradient), group, costs, k, rate * lambda);
            path.Add(w);
        }

        return new Dictionary<string, Tensor> { ["w"] = stack([.. path]) };
    }

    private static (Tensor Group, double[] Costs) Grouping(ParityCase c)
    {
        Tensor group = c.Input("group");
        double[] costs = c.Optional("d")?.to(ScalarType.Float64).data<double>().ToArray() ?? Equal(CountOf(group));
        EspalierException.Require(CountOf(group) == costs.Length, $"The group ids reach {CountOf(group) - 1}, but there are costs for {costs.Length} groups; ids must be 0 to {costs.Length - 1}.");
        EspalierException.Require(group.data<long>().ToArray().Distinct().Count() == costs.Length, "A group has no entry; every id from 0 on must occur.");
        return (group, costs);
    }

    private static int CountOf(Tensor group) => (int)group.max().item<long>() + 1;
}
