using Espalier.Catalogue;
using Espalier.Models;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;
using Parameter = TorchSharp.Modules.Parameter;

namespace Espalier.Methods.Adaptation;

public sealed partial record GradNormLorp
{
    [ParityOp("gradnormlorp.galore_project")]
    internal static IReadOnlyDictionary<string, Tensor> ProjectOp(ParityCase c)
    {
        Tensor g0 = c.Input("g0"), g1 = c.Input("g1");
        using var projector = new GradientProjector(g0.shape[0], g0.shape[1], c.Parameter<int>("rank"), c.Parameter("update_proj_gap", 3), c.Parameter("scale", 1.0), Side(c));
        Tensor low0 = projector.Project(g0, 0), back0 = projector.Back(low0);
        Tensor low1 = projector.Project(g1, 1), back1 = projector.Back(low1);
        Tensor back3 = projector.Back(projector.Project(g1, 3));
        return new Dictionary<string, Tensor>
        {
            ["back_0"] = back0, ["back_1_stale"] = back1, ["back_3_refreshed"] = back3, ["low_shape"] = tensor(low0.shape), ["low_norm_0"] = low0.norm(), ["low_norm_1"] = low1.norm(),
        };
    }

    [ParityOp("gradnormlorp.galore_adamw")]
    internal static IReadOnlyDictionary<string, Tensor> GaloreOp(ParityCase c)
    {
        using Parameter w = Parameters.Of(c.Input("w").clone());
        using var optimizer = new ProjectedAdamW([new OptimizedParameter("w", w)], Step(c));
        Run(c, w, optimizer);
        return new Dictionary<string, Tensor> { ["w"] = w.detach().clone() };
    }

    [ParityOp("gradnormlorp.weightnorm_step")]
    internal static IReadOnlyDictionary<string, Tensor> WeightNormOp(ParityCase c)
    {
        using Parameter w = Parameters.Of(c.Input("w").clone());
        using var optimizer = new WeightNormAdamW([new OptimizedParameter("w", w)], Step(c), c.Parameter("mode", "persistent") == "persistent");
        Run(c, w, optimizer);
        Tensor v = optimizer.Direction(0), g = optimizer.Magnitude(0);
        return new Dictionary<string, Tensor> { ["w"] = w.detach().clone(), ["v"] = v.reshape(w.shape), ["g"] = w.dim() == 1 ? g.squeeze(1) : g };
    }

    [ParityOp("gradnormlorp.weightnorm_grads")]
    internal static IReadOnlyDictionary<string, Tensor> GradientsOp(ParityCase c)
    {
        Tensor w = c.Input("w"), gradient = c.Input("grad");
        (Tensor direction, Tensor magnitude, Tensor across, Tensor along) = Split(w, gradient, c.Parameter("eps", 1e-12));
        (Tensor exactV, Tensor exactG) = WeightNormAdamW.ExactGradients(w, linalg.norm(w, 2, [1], keepdim: true), gradient);
        return new Dictionary<string, Tensor>
        {
            ["direction"] = direction, ["magnitude"] = magnitude, ["grad_direction"] = across, ["grad_magnitude"] = along, ["grad_v_exact"] = exactV, ["grad_g_exact"] = exactG,
        };
    }

    [ParityOp("gradnormlorp.dora_linear")]
    internal static IReadOnlyDictionary<string, Tensor> DoraOp(ParityCase c)
    {
        Tensor w = c.Input("w");
        using var adapter = new DoraAdapter(c.Input("a"), c.Input("b"), c.Input("m"), c.Parameter<double>("scaling"));
        Tensor y = adapter.Forward(c.Input("x"), w, null);
        y.backward([c.Input("grad_y")]);
        return new Dictionary<string, Tensor>
        {
            ["y"] = y.detach(), ["grad_a"] = adapter.A.grad!.clone(), ["grad_b"] = adapter.B.grad!.clone(), ["grad_m"] = adapter.Magnitude.grad!.clone(), ["merged"] = adapter.Weight(w).detach(),
        };
    }

    [ParityOp("gradnormlorp.quant8")]
    internal static IReadOnlyDictionary<string, Tensor> EightBitOp(ParityCase c)
    {
        (bool signed, long block) = (c.Parameter<bool>("signed"), c.Parameter("block_size", EightBit.DefaultBlock));
        (Tensor codes, Tensor largest) = EightBit.Encode(c.Input("x"), signed, block);
        return new Dictionary<string, Tensor>
        {
            ["map"] = EightBit.Map(signed), ["codes"] = codes.to(ScalarType.Int64), ["absmax"] = largest, ["dequantized"] = EightBit.Decode(codes, largest, signed, block),
        };
    }

    private static void Run(ParityCase c, Parameter w, IOptimizer optimizer)
    {
        foreach (Tensor gradient in c.Input("grads").unbind())
        {
            w.grad = gradient;
            optimizer.Step(c.Parameter<double>("lr"));
        }

        w.grad = null;
    }

    private static ProjectedStep Step(ParityCase c) => new(
        c.Parameter("rank", 0), c.Parameter("update_proj_gap", 200), c.Parameter("scale", 1.0), Side(c), c.Parameter("beta1", 0.9), c.Parameter("beta2", 0.999),
        c.Parameter("eps", 1e-6), c.Parameter("weight_decay", 0.0), c.Parameter("correct_bias", true), new StateStorage());

    private static ProjectionSide Side(ParityCase c) => c.Parameter("proj_type", "std") switch
    {
        "reverse_std" => ProjectionSide.ReverseStd,
        "left" => ProjectionSide.Left,
        "right" => ProjectionSide.Right,
        "full" => ProjectionSide.Full,
        _ => ProjectionSide.Std,
    };
}
