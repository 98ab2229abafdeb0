using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

public sealed partial record Lrmc
{
    [ParityOp("lrmc.init")]
    internal static IReadOnlyDictionary<string, Tensor> InitOp(ParityCase c)
    {
        double limit = c.Parameter("row_norm_limit", -1.0);
        (Tensor u, Tensor norms, double share, Tensor values) = LrmcEquations.Start(c.Input("m_observed"), c.Input("mask"), c.Parameter<int>("k"), limit < 0 ? null : limit);
        return new Dictionary<string, Tensor> { ["projector"] = u.mm(u.t()), ["row_norms"] = norms, ["p_hat"] = tensor([share]), ["singular_values"] = values };
    }

    [ParityOp("lrmc.half_step")]
    internal static IReadOnlyDictionary<string, Tensor> HalfStepOp(ParityCase c)
    {
        (Tensor v, double residual) = LrmcEquations.HalfStep(c.Input("u"), c.Input("m_observed"), c.Input("mask"));
        return new Dictionary<string, Tensor> { ["v"] = v, ["residual"] = tensor([residual]) };
    }

    [ParityOp("lrmc.sketch_solve")]
    internal static IReadOnlyDictionary<string, Tensor> SketchSolveOp(ParityCase c)
    {
        Tensor a = c.Input("a"), b = c.Input("b");
        string sketch = c.Parameter("sketch", "count");
        EspalierException.Require(sketch is "count" or "gaussian", $"'{sketch}' is no sketch; use count or gaussian.");
        EspalierException.Require(c.Parameter("solver", "pcg") == "pcg", "The solver is always pcg.");
        (Tensor sa, Tensor sb) = sketch == "count" ? (Count(a), Count(b)) : (Given(a), Given(b));
        using var problem = new SketchedRegression(a, b, sa, sb);
        return new Dictionary<string, Tensor>
        {
            ["r_gram"] = problem.Gram,
            ["x_sketch"] = problem.Start.clone(),
            ["x_richardson_1"] = problem.Richardson(problem.Start),
            ["x_final"] = problem.ConjugateGradients(problem.Start, c.Parameter<int>("iterations")),
            ["x_exact"] = problem.Exact,
            ["error_start"] = tensor([problem.Error(problem.Start)]),
        };

        Tensor Count(Tensor x) => SketchedRegression.CountSketch(x, c.Input("hash"), c.Input("sign"), c.Input("hash").max().to(ScalarType.Int64).item<long>() + 1);

        Tensor Given(Tensor x) => c.Input("sketch").to(ScalarType.Float64).matmul(x.to(ScalarType.Float64));
    }

    [ParityOp("lrmc.alternate")]
    internal static IReadOnlyDictionary<string, Tensor> AlternateOp(ParityCase c)
    {
        (Tensor completed, IReadOnlyList<double> errors, IReadOnlyList<double> distances) =
            LrmcEquations.Alternate(c.Input("u0"), c.Input("m_observed"), c.Input("mask"), c.Input("m_full"), c.Parameter<int>("iterations"));
        return new Dictionary<string, Tensor> { ["completed"] = completed, ["relative_error"] = tensor(errors.ToArray()), ["subspace_distance"] = tensor(distances.ToArray()) };
    }

    [ParityOp("lrmc.subspace")]
    internal static IReadOnlyDictionary<string, Tensor> SubspaceOp(ParityCase c) => new Dictionary<string, Tensor>
    {
        ["distance"] = tensor([LrmcEquations.SubspaceDistance(c.Input("a"), c.Input("b"))]),
        ["incoherence_a"] = tensor([LrmcEquations.Incoherence(c.Input("a"))]),
    };
}
