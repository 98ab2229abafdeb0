using Espalier.Catalogue;
using Espalier.Evaluation;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Ftwt
{
    [ParityOp("ftwt.target_mask")]
    internal static IReadOnlyDictionary<string, Tensor> TargetMaskOp(ParityCase c)
    {
        Tensor heat = Heat(c.Input("activation"));
        return new Dictionary<string, Tensor> { ["criterion"] = heat, ["mask"] = Fires(heat, TypeOf(c), c.Parameter("ratio", 1.0)) };
    }

    [ParityOp("ftwt.predict_mask")]
    internal static IReadOnlyDictionary<string, Tensor> PredictMaskOp(ParityCase c)
    {
        Tensor logits = nn.functional.linear(GateLayer.Pool(c.Input("x"), side: 1, c.Parameter("softmax", true)), c.Input("weight"), c.Optional("bias"));
        return new Dictionary<string, Tensor> { ["logits"] = logits, ["binary"] = GateLayer.Choose(logits, keepTop: false) };
    }

    [ParityOp("ftwt.mask_loss")]
    internal static IReadOnlyDictionary<string, Tensor> MaskLossOp(ParityCase c)
    {
        Tensor[] logits = [.. c.Numbered("logits").Select(l => l.detach().clone().requires_grad_())];
        IReadOnlyList<Tensor> targets = c.Numbered("target");
        EspalierException.Require(logits.Length > 0 && logits.Length == targets.Count, $"There are {logits.Length} logits and {targets.Count} targets; there must be one for each layer.");
        Tensor loss = logits.Zip(targets, MaskLoss).Aggregate((a, b) => a + b) * (c.Parameter("lweight", 1.0) / logits.Length);
        loss.backward();
        var outputs = new Dictionary<string, Tensor> { ["loss"] = loss.detach(), ["accuracy"] = tensor(logits.Zip(targets, Agreement).Average()) };
        foreach ((int i, Tensor layer) in logits.Index())
        {
            outputs[FormattableString.Invariant($"grad{i}")] = layer.grad!;
        }

        return outputs;
    }

    [ParityOp("ftwt.masked_conv")]
    internal static IReadOnlyDictionary<string, Tensor> MaskedConvOp(ParityCase c)
    {
        Tensor Leaf(string name) => c.Input(name).detach().clone().requires_grad_();
        Tensor x = Leaf("x"), weight = Leaf("conv_weight"), predictor = Leaf("pred_weight"), bias = Leaf("pred_bias");
        long groups = c.Parameter("groups", 1L), padding = c.Parameter("padding", 0L);
        string mode = c.Parameter("mode", "decoupled");
        EspalierException.Require(mode is "decoupled" or "joint", $"'{mode}' is no mode of {c.Op}; it has decoupled and joint.");
        Tensor whole = nn.functional.conv2d(x, weight, padding: [padding, padding], groups: groups);
        whole = nn.functional.batch_norm(whole, c.Input("bn_mean"), c.Input("bn_var"), c.Input("bn_weight"), c.Input("bn_bias"), training: false, eps: c.Parameter("bn_eps", BatchNormLayer.Epsilon)).relu();
        Tensor logits = nn.functional.linear(GateLayer.Pool(mode == "joint" ? x : x.detach(), side: 1, c.Parameter("softmax", true)), predictor, bias);
        Tensor open = GateLayer.Choose(logits, keepTop: false), fires = Fires(Heat(whole), TypeOf(c), c.Parameter("ratio", 1.0));
        Tensor output = whole * open.unsqueeze(-1).unsqueeze(-1), loss = MaskLoss(logits, fires);
        ((output * c.Input("grad_out")).sum() + loss).backward();

        Tensor active = open.sum([1L]);
        float[] now = [.. active.data<float>()], before = [.. c.Input("prev_active").to(ScalarType.Float32).data<float>()];
        double[] flops = [.. now.Zip(before, (own, previous) => GateMeter.Macs(own, output.shape[2] * output.shape[3], previous, groups, weight.shape[2] * weight.shape[3]))];
        return new Dictionary<string, Tensor>
        {
            ["out"] = output.detach(),
            ["logits"] = logits.detach(),
            ["target"] = fires,
            ["active"] = active,
            ["flops"] = tensor(flops),
            ["mask_loss"] = loss.detach(),
            ["grad_conv"] = GradientOf(weight),
            ["grad_pred_weight"] = GradientOf(predictor),
            ["grad_pred_bias"] = GradientOf(bias),
            ["grad_x"] = GradientOf(x),
        };
    }

    private static Tensor GradientOf(Tensor leaf) => leaf.grad ?? zeros_like(leaf, requires_grad: false);

    private static FtwtTarget TypeOf(ParityCase c)
    {
        string word = c.Parameter("type", "mass");
        EspalierException.Require(Enum.TryParse(word, ignoreCase: true, out FtwtTarget type), $"'{word}' is no type of {c.Op}; it has mass and uniform.");
        return type;
    }
}
