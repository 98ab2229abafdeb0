using Espalier.Catalogue;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Retraining;

public sealed partial class Perp
{
    [ParityOp("perp.masklora")]
    internal static IReadOnlyDictionary<string, Tensor> MaskLoraOp(ParityCase c) =>
        AdapterOp(c, (w, a, b) => new MaskLoraAdapter(w, a, b, c.Parameter<double>("alpha"), name: "W"));

    [ParityOp("perp.loraprune")]
    internal static IReadOnlyDictionary<string, Tensor> LoraPruneOp(ParityCase c) =>
        AdapterOp(c, (w, a, b) => new LoraPruneAdapter(w, a, b, c.Parameter<double>("alpha"), name: "W"));

    [ParityOp("perp.scalelora")]
    internal static IReadOnlyDictionary<string, Tensor> ScaleLoraOp(ParityCase c) =>
        AdapterOp(c, (w, a, b) => new ScaleLoraAdapter(w, a, b, name: "W"));

    [ParityOp("perp.lr_schedule")]
    internal static IReadOnlyDictionary<string, Tensor> ScheduleOp(ParityCase c)
    {
        string word = c.Parameter<string>("mode");
        EspalierException.Require(Enum.TryParse(word, ignoreCase: true, out PerpMode mode), $"'{word}' is no mode of perp.lr_schedule; it is retrain or reconstruct.");
        long steps = c.Parameter<long>("T");
        int warmup = c.Parameter("warmup_steps", PerpSchedule.Warmup(mode, steps));
        double peak = c.Parameter<double>("peak_lr");
        double[] rates = [.. c.Input("steps").reshape(-1).to(ScalarType.Int64).data<long>().Select(k => LearningRateSchedule.At("linear", k, steps, warmup, peak))];
        return new Dictionary<string, Tensor> { ["lr"] = tensor(rates).reshape(c.Input("steps").shape) };
    }

    [ParityOp("perp.reconstruct")]
    internal static IReadOnlyDictionary<string, Tensor> ReconstructOp(ParityCase c)
    {
        EspalierException.Require(c.Parameter("batch_size", 1) == 1, "perp.reconstruct trains on one sequence at a time; batch_size is 1.");
        Tensor W = c.Input("W");
        Tensor? bias = c.Optional("bias");
        using var linear = new Linear("linear", W.shape[1], W.shape[0], bias is not null);
        linear.SetMatrix(W);
        if (bias is not null)
        {
            using var _ = no_grad();
            linear.bias!.copy_(bias);
        }

        double[] betas = c.Parameter<double[]>("betas", [0.9, 0.999]);
        int steps = c.Parameter<int>("iterations");
        var options = new TrainingOptions
        {
            Steps = steps,
            LearningRate = c.Parameter<double>("lr"),
            WarmupSteps = PerpSchedule.Warmup(PerpMode.Reconstruct, steps),
            Beta1 = betas[0],
            Beta2 = betas[1],
            Epsilon = c.Parameter("eps", 1e-8),
            WeightDecay = c.Parameter("weight_decay", 0.0),
        };
        using var adapter = new MaskLoraAdapter(W, c.Input("A"), c.Input("B"), c.Parameter<double>("alpha"), name: "W");
        (IReadOnlyList<double> losses, double before, double after) = Reconstruct(
            c.Input("X").to(ScalarType.Float32), c.Input("Y").to(ScalarType.Float32), linear, adapter, c.Parameter("train_bias", false), options);
        var outputs = new Dictionary<string, Tensor>
        {
            ["A"] = adapter.A.detach().clone(),
            ["B"] = adapter.B.detach().clone(),
            ["W_merged"] = adapter.Merge(W),
            ["losses"] = tensor(losses.ToArray()),
            ["error_initial"] = tensor(before),
            ["error_final"] = tensor(after),
        };
        if (linear.bias is not null)
        {
            outputs["bias"] = linear.bias.detach().clone();
        }

        return outputs;
    }

    [ParityOp("perp.trainable_counts")]
    internal static IReadOnlyDictionary<string, Tensor> TrainableCountsOp(ParityCase c)
    {
        long Size(string name) => c.Parameter<long>(name);
        string arch = c.Parameter<string>("arch");
        TrainableCounts counts = arch switch
        {
            "opt" => TrainableCounts.Opt(Size("hidden"), Size("layers"), Size("ffn"), Size("vocab"), Size("positions"), Size("r")),
            "llama" => TrainableCounts.Llama(Size("hidden"), Size("layers"), Size("ffn"), Size("vocab"), c.Parameter("kv_dim", Size("hidden")), c.Parameter("tied", false), Size("r")),
            _ => throw new EspalierException($"'{arch}' is no architecture of perp.trainable_counts; it is opt or llama."),
        };
        return new Dictionary<string, Tensor>
        {
            ["total"] = tensor(counts.Total),
            ["prunable"] = tensor(counts.Prunable),
            ["biases"] = tensor(counts.Biases),
            ["norms"] = tensor(counts.Norms),
            ["biases_and_norms"] = tensor(counts.BiasesAndNorms),
            ["lora"] = tensor(counts.Lora),
            ["head_lora"] = tensor(counts.HeadLora),
            ["all"] = tensor(counts.All),
        };
    }

    /// <summary>Output, gradients of Σ y∘gy and merged weight of one adapter whose factors are given.</summary>
    private static Dictionary<string, Tensor> AdapterOp(ParityCase c, Func<Tensor, Tensor, Tensor, LowRankAdapter> make)
    {
        Tensor W = c.Input("W");
        Tensor x = c.Input("x").detach().clone().requires_grad_();
        using LowRankAdapter adapter = make(W, c.Input("A"), c.Input("B"));
        Tensor y = adapter.Forward(x, W, c.Optional("bias"));
        (y * c.Input("gy")).sum().backward();
        return new()
        {
            ["y"] = y.detach(),
            ["gA"] = adapter.A.grad!.clone(),
            ["gB"] = adapter.B.grad!.clone(),
            ["gx"] = x.grad!,
            ["W_merged"] = adapter.Merge(W),
        };
    }
}
