using Espalier.Catalogue;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial class RdPrune
{
    [ParityOp("rdprune.curves")]
    internal static IReadOnlyDictionary<string, Tensor> CurvesOp(ParityCase c)
    {
        int layers = c.Parameter("layers", c.Numbered("W").Count);
        Tensor[] W = [.. Enumerable.Range(0, layers).Select(l => c.Input($"W{l}").clone())];
        Tensor Forward(int _)
        {
            Tensor x = c.Input("X");
            for (int l = 0; l < layers; l++)
            {
                x = nn.functional.linear(x, W[l], c.Input($"b{l}"));
                x = l == layers - 1 ? x : x.relu();
            }

            return x;
        }

        IReadOnlyList<RdCurve> curves = MeasureCurves([.. W.Select((w, l) => ($"W{l}", w))], c.Parameter<int>("levels"), Forward, c.Parameter<bool>("worst_case"));
        return new Dictionary<string, Tensor>
        {
            ["amount"] = stack(curves.Select(r => tensor(r.Phi.ToArray()))),
            ["distortion"] = stack(curves.Select(r => tensor(r.Distortion.ToArray()))),
        };
    }

    [ParityOp("rdprune.allocate")]
    internal static IReadOnlyDictionary<string, Tensor> AllocateOp(ParityCase c)
    {
        (RdCurve[] curves, long[] counts, float[] previous) = Inputs(c);
        RdAllocation a = AllocatePublished(curves, counts, c.Parameter<double>("target_sparsity"), previous);
        return new Dictionary<string, Tensor>
        {
            ["phi"] = tensor(a.Phi.ToArray()),
            ["amount"] = tensor(a.Amount.ToArray()),
            ["total_distortion"] = tensor((float)a.TotalDistortion),
            ["kept"] = tensor((float)a.Phi.Zip(counts, (p, n) => (double)SurvivorsSingle(p, n)).Sum()),
        };
    }

    [ParityOp("rdprune.allocate_exact")]
    internal static IReadOnlyDictionary<string, Tensor> AllocateExactOp(ParityCase c)
    {
        (RdCurve[] curves, long[] counts, float[] previous) = Inputs(c);
        long budget = c.HasParameter("budget") ? c.Parameter<long>("budget") : Budget(counts, c.Parameter<double>("target_sparsity"));
        RdAllocation a = AllocateExact(curves, counts, budget, previous);
        return new Dictionary<string, Tensor>
        {
            ["level_index"] = tensor(a.Levels.Select(d => (long)d).ToArray()),
            ["total_distortion"] = tensor((float)a.TotalDistortion),
            ["kept"] = tensor(a.Kept),
        };
    }

    [ParityOp("rdprune.baseline_amounts")]
    internal static IReadOnlyDictionary<string, Tensor> BaselineAmountsOp(ParityCase c)
    {
        Tensor[] W = [.. Enumerable.Range(0, c.Parameter("layers", c.Numbered("W").Count)).Select(l => c.Input($"W{l}"))];
        double amount = c.Parameter<double>("amount");
        static Tensor Single(IReadOnlyList<double> values) => tensor(values.ToArray()).to(ScalarType.Float32);
        return new Dictionary<string, Tensor>
        {
            ["lamp"] = Single(LampAmounts(W, amount)),
            ["erk"] = Single(ErkAmounts(W, amount)),
            ["unif_plus"] = Single(UniformPlusAmounts(W, amount)),
        };
    }

    private static (RdCurve[] Curves, long[] Counts, float[] Previous) Inputs(ParityCase c)
    {
        Tensor D = c.Input("distortion").to(ScalarType.Float32), phi = c.Input("levels").to(ScalarType.Float32);
        RdCurve[] curves = [.. Enumerable.Range(0, (int)D.shape[0]).Select(l =>
            new RdCurve([.. phi[l].contiguous().data<float>()], [.. D[l].contiguous().data<float>()]))];
        return (curves, [.. c.Input("numel").data<long>()], [.. c.Input("previous").to(ScalarType.Float32).data<float>()]);
    }
}
