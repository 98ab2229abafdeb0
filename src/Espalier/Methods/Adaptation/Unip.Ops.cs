using Espalier.Catalogue;
using Espalier.Evaluation;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

public sealed partial record Unip
{
    [ParityOp("unip.nmi")]
    internal static IReadOnlyDictionary<string, Tensor> NmiOp(ParityCase c)
    {
        AttentionPatterns found = AttentionPatterns.Of(c.Input("logits"), c.Parameter("has_cls", false));
        return new Dictionary<string, Tensor>
        {
            ["nmi"] = found.Nmi,
            ["mutual_information"] = found.MutualInformation,
            ["entropy_keys"] = found.KeyEntropy,
            ["layer_nmi"] = tensor(found.Mean),
        };
    }

    [ParityOp("unip.layer_select")]
    internal static IReadOnlyDictionary<string, Tensor> LayerSelectOp(ParityCase c) => new Dictionary<string, Tensor>
    {
        ["layer"] = tensor((long)AttentionPatterns.Choose([.. c.Input("nmi").to(ScalarType.Float64).data<double>()], c.Parameter<double>("target"))),
    };

    [ParityOp("unip.had_loss")]
    internal static IReadOnlyDictionary<string, Tensor> HadLossOp(ParityCase c)
    {
        Tensor student = c.Input("student_qk").detach().clone().requires_grad_();
        Tensor loss = AttentionPatterns.DistillationLoss(student, c.Input("teacher_qk"));
        loss.backward();
        return new Dictionary<string, Tensor> { ["loss"] = loss.detach(), ["g_student"] = student.grad!.clone() };
    }

    [ParityOp("unip.block_qk")]
    internal static IReadOnlyDictionary<string, Tensor> BlockQkOp(ParityCase c)
    {
        Tensor x = c.Input("x");
        long images = x.shape[0], tokens = x.shape[1], width = x.shape[2], heads = c.Parameter<long>("heads");
        double eps = c.Parameter("eps", 1e-6);
        Tensor qkv = Linear(Norm(x, "norm1"), "attn.qkv"), scores = AttentionScores(qkv, heads);
        Tensor v = qkv.narrow(2, 2 * width, width).view(images, tokens, heads, -1).transpose(1, 2);
        Tensor mixed = scores.softmax(-1).matmul(v).transpose(1, 2).reshape(images, tokens, width);
        Tensor y = x + Linear(mixed, "attn.proj");
        y = y + Linear(nn.functional.gelu(Linear(Norm(y, "norm2"), "mlp.fc1")), "mlp.fc2");
        return new Dictionary<string, Tensor> { ["y"] = y, ["qk"] = scores };

        Tensor Norm(Tensor t, string name) => nn.functional.layer_norm(t, [width], c.Input($"{name}.weight"), c.Input($"{name}.bias"), eps);

        Tensor Linear(Tensor t, string name) => nn.functional.linear(t, c.Input($"{name}.weight"), c.Optional($"{name}.bias"));
    }

    [ParityOp("unip.ll_fpn")]
    internal static IReadOnlyDictionary<string, Tensor> LlFpnOp(ParityCase c)
    {
        PyramidMaps maps = LastLayerPyramid.Maps(c.Input("tokens"), c.Parameter<long>("height"), c.Parameter<long>("width"), c.Input("f1_w1"), c.Input("f1_b1"),
            x => nn.functional.batch_norm(x, null!, null!, c.Input("bn_w"), c.Input("bn_b"), training: true, eps: c.Parameter("bn_eps", 1e-5)),
            c.Input("f1_w2"), c.Input("f1_b2"), c.Input("f2_w"), c.Input("f2_b"));
        return new Dictionary<string, Tensor> { ["p4"] = maps.P4, ["p8"] = maps.P8, ["p16"] = maps.P16, ["p32"] = maps.P32 };
    }

    [ParityOp("unip.schedules")]
    internal static IReadOnlyDictionary<string, Tensor> SchedulesOp(ParityCase c)
    {
        double rate = c.Parameter<double>("blr") * c.Parameter<double>("effective_batch") / 256;
        double[] epochs = [.. c.Input("epochs").to(ScalarType.Float64).data<double>()], iterations = [.. c.Input("iterations").to(ScalarType.Float64).data<double>()];
        return new Dictionary<string, Tensor>
        {
            ["layer_scale"] = tensor(UnipSchedules.LayerScales(c.Parameter<int>("depth"), c.Parameter<double>("layer_decay")).ToArray()),
            ["pretrain_lr"] = tensor(epochs.Select(e => UnipSchedules.Pretraining(e, rate, c.Parameter<double>("warmup_epochs"), c.Parameter<double>("total_epochs"), c.Parameter("min_lr", 0.0))).ToArray()),
            ["finetune_lr"] = tensor(iterations.Select(i => UnipSchedules.FineTuning(
                i, c.Parameter<double>("base_lr"), c.Parameter<double>("max_iters"), c.Parameter<double>("warmup_iters"), c.Parameter<double>("warmup_ratio"), c.Parameter("finetune_min_lr", 0.0))).ToArray()),
        };
    }

    [ParityOp("unip.miou")]
    internal static IReadOnlyDictionary<string, Tensor> MiouOp(ParityCase c)
    {
        SegmentationScore score = SegmentationScore.Of(c.Input("label"), c.Input("prediction"), c.Parameter<int>("classes"), c.Parameter("ignore", 255L));
        return new Dictionary<string, Tensor>
        {
            ["confusion"] = tensor(score.Confusion.SelectMany(r => r).ToArray(), [score.Classes, score.Classes]),
            ["iou"] = tensor(score.Iou.ToArray()),
            ["present"] = tensor(score.Present.ToArray()),
            ["miou"] = tensor(score.MeanIou),
            ["pixel_accuracy"] = tensor(score.PixelAccuracy),
        };
    }
}
