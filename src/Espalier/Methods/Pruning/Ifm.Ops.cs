using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Ifm
{
    [ParityOp("ifm.neg_distance")]
    internal static IReadOnlyDictionary<string, Tensor> NegativeDistanceOp(ParityCase c) => new Dictionary<string, Tensor>
    {
        ["neg_distance"] = FeatureGroup.NegativeDistance([c.Input("incoming"), c.Input("outgoing").transpose(0, 1)]),
    };

    [ParityOp("ifm.merge_pair")]
    internal static IReadOnlyDictionary<string, Tensor> MergePairOp(ParityCase c)
    {
        string layer = c.Parameter<string>("layer");
        EspalierException.Require(layer is "a" or "b", $"The layer '{layer}' is none of a and b.");
        Dictionary<string, Tensor> values = Values(c);
        Tensor before = Forward(c, values);
        FeatureGroup group = Group(layer, values, MethodOf(c), [.. c.Input("counts").to(ScalarType.Float64).data<double>()]);
        group.Merge(values, c.Parameter<int>("i"), c.Parameter<int>("j"), c.Parameter("bn_eps", 1e-5));
        return With(values, c, before, ("counts", tensor(group.Counts.ToArray(), ScalarType.Float32)));
    }

    [ParityOp("ifm.merge")]
    internal static IReadOnlyDictionary<string, Tensor> MergeOp(ParityCase c)
    {
        Ifm method = MethodOf(c) with { Beta = c.Parameter<double>("beta"), MaxRatio = c.Parameter("max_ratio", 1.0) };
        Dictionary<string, Tensor> values = Values(c);
        Tensor before = Forward(c, values);
        FeatureGroup a = Group("a", values, method), b = Group("b", values, method);
        method.Iterate([a, b], values, c.Parameter("bn_eps", 1e-5), CancellationToken.None);
        return With(values, c, before,
            ("group_of_a", tensor(a.GroupOf)), ("group_of_b", tensor(b.GroupOf)), ("size_a", tensor((long)a.Members.Count)), ("size_b", tensor((long)b.Members.Count)));
    }

    private static Ifm MethodOf(ParityCase c)
    {
        string word = c.Parameter("bn_var", "sum");
        EspalierException.Require(word is "sum" or "std_sum", $"'{word}' is no rule for variances; use sum or std_sum.");
        return new Ifm { BatchNorm = word == "sum" ? BatchNormMerge.Sum : BatchNormMerge.StdSum };
    }

    private static Dictionary<string, Tensor> Values(ParityCase c) =>
        c.InputNames.Where(n => n.StartsWith("a.", StringComparison.Ordinal) || n.StartsWith("abn.", StringComparison.Ordinal) || n.StartsWith("b.", StringComparison.Ordinal) || n.StartsWith("bbn.", StringComparison.Ordinal) || n.StartsWith("fc.", StringComparison.Ordinal))
            .ToDictionary(n => n, n => c.Input(n).clone());

    private static FeatureGroup Group(string layer, Dictionary<string, Tensor> values, Ifm method, double[]? counts = null)
    {
        string reader = layer == "a" ? "b.weight" : "fc.weight";
        int count = (int)values[$"{layer}.weight"].shape[0];
        string[] written = [.. values.Keys.Where(n => n.StartsWith($"{layer}.", StringComparison.Ordinal) || n.StartsWith($"{layer}bn.", StringComparison.Ordinal))];
        return new FeatureGroup(layer, count, [.. written.Select(n => method.Slice(new Models.SlicePattern(n, 0))), method.Slice(new Models.SlicePattern(reader, 1))]) { Counts = counts ?? [.. Enumerable.Repeat(1.0, count)] };
    }

    private static Dictionary<string, Tensor> With(Dictionary<string, Tensor> values, ParityCase c, Tensor before, params (string Name, Tensor Value)[] more)
    {
        var result = new Dictionary<string, Tensor>(values) { ["y_before"] = before, ["y_after"] = Forward(c, values) };
        foreach ((string name, Tensor value) in more)
        {
            result[name] = value;
        }

        // Merging leaves tensors that belong to no scope: what is handed on does.
        foreach ((string name, Tensor value) in values)
        {
            result[name] = value.clone();
            value.Dispose();
        }

        return result;
    }

    // Convolution, norm and ReLU twice, the mean over space, a linear map.
    private static Tensor Forward(ParityCase c, Dictionary<string, Tensor> values)
    {
        Tensor x = c.Input("x");
        foreach (string layer in (string[])["a", "b"])
        {
            Tensor weight = values[$"{layer}.weight"];
            long padding = weight.shape[^1] / 2;
            x = nn.functional.conv2d(x, weight, values.GetValueOrDefault($"{layer}.bias"), padding: [padding, padding]);
            x = nn.functional.batch_norm(x, values[$"{layer}bn.running_mean"], values[$"{layer}bn.running_var"], values[$"{layer}bn.weight"], values[$"{layer}bn.bias"], training: false, eps: c.Parameter("bn_eps", 1e-5)).relu();
        }

        return nn.functional.linear(x.mean([2, 3]), values["fc.weight"], values.GetValueOrDefault("fc.bias"));
    }
}
