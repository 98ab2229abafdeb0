using Espalier.Catalogue;
using Espalier.Methods.Retraining;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>Which filters a predictor shall learn to open.</summary>
public enum FtwtTarget
{
    /// <summary>As many, from the most active on, as make up a share of the heat: another number for every image.</summary>
    Mass,

    /// <summary>All but a fixed share of the least active.</summary>
    Uniform,
}

/// <summary>What the predictors' loss trains.</summary>
public enum FtwtMode
{
    /// <summary>The predictors alone.</summary>
    Decoupled,

    /// <summary>The layers before them too.</summary>
    Joint,
}

/// <summary>
/// Fire together wire together (Elkerdawy, Elhoushi, Zhang, Ray, CVPR 2022): for every image and convolution a small predictor looks at the layer's input and
/// opens the filters that it expects among the most active; it is trained as a classifier of exactly that, so no penalty has to be balanced.
/// </summary>
/// <remarks>All weights stay. The gates belong to the net that comes out: it is saved, measured and trained on with them.</remarks>
[Method("ftwt", "Fire Together Wire Together: A Dynamic Pruning Approach with Self-Supervised Mask Prediction", Family = "Pruning", Source = "arXiv 2110.08232, CVPR 2022",
    Summary = "Opens for each image only the filters that a tiny predictor expects to fire most; trained by self-supervision, its savings known before.",
    Fits = "vision nets with batch norm: `espalier train --method ftwt`; after static pruning, before quantisation of the backbone")]
public sealed partial record Ftwt : IVisionMethod
{
    private const string Slug = "ftwt";
    private const float Delta = 1e-5f;

    /// <summary>Mass: the share r of the heat that the open filters make up; below 0 keeps all. Uniform: the share ρ of filters that is closed. At most 1. Default 1: only filters without heat are closed.</summary>
    public double Ratio { get; init => field = OptionCheck.Checked(value, value <= 1, Slug, "ratio", "at most 1 (0.8 to 0.97 is usual)"); } = 1;

    /// <summary>What predictors learn. Default mass.</summary>
    public FtwtTarget Target { get; init; } = FtwtTarget.Mass;

    /// <summary>What their loss trains. Default decoupled.</summary>
    public FtwtMode Mode { get; init; } = FtwtMode.Decoupled;

    /// <summary>Whether predictors read the softmax of the pooled input. Default true.</summary>
    public bool Softmax { get; init; } = true;

    /// <summary>The learning rate of the predictors, which follows the training's schedule. Default 0.1.</summary>
    public double PredictorRate { get; init => field = OptionCheck.Checked(value, value > 0 && double.IsFinite(value), Slug, "predictor rate", "a positive number"); } = 0.1;

    /// <summary>The weight of the predictors' loss while they learn. Default 1.</summary>
    public double LossWeight { get; init => field = OptionCheck.Checked(value, value > 0 && double.IsFinite(value), Slug, "loss weight", "a positive number"); } = 1;

    /// <summary>The share of the steps in which predictors learn; then they are frozen and the net settles around them. Default 0.5.</summary>
    public double Cooldown { get; init => field = OptionCheck.Checked(value, value is >= 0 and <= 1, Slug, "cooldown", "from 0 to 1"); } = 0.5;

    /// <summary>About how many numbers a predictor reads, as a grid of pooled places; −1 (default) pools each channel to one.</summary>
    public int Embedding { get; init => field = OptionCheck.Checked(value, value is -1 or >= 1, Slug, "embedding", "-1, or at least 1"); } = -1;

    /// <summary>Whether an image that would close a whole layer keeps its most likely filter. Default false, as in the paper: the layer is then silent.</summary>
    public bool KeepTop { get; init; }

    /// <summary>Whether predictors start by opening every filter. Default false.</summary>
    public bool WarmStart { get; init; }

    /// <summary>Steps of a second phase with frozen predictors. Default 0.</summary>
    public int FineTune { get; init => field = OptionCheck.Checked(value, value >= 0, Slug, "number of fine-tuning steps", "at least 0"); }

    /// <summary>The learning rate of the second phase, a tenth of it after 58, 78 and 98 % of its steps. Default 1e-3.</summary>
    public double FineTuneRate { get; init => field = OptionCheck.Checked(value, value > 0 && double.IsFinite(value), Slug, "fine-tuning rate", "a positive number"); } = 1e-3;

    /// <summary>How active each filter is.</summary>
    /// <param name="activation">The map before it is gated [images, filters, height, width], or [images, filters].</param>
    /// <returns>c = max |out_f| over all places [images, filters], in the caller's scope.</returns>
    public static Tensor Heat(Tensor activation)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor size = activation.detach().abs();
        return (size.dim() == 2 ? size : size.flatten(2).amax([2])).MoveToOuterDisposeScope();
    }

    /// <summary>Which filters fire: what a predictor learns.</summary>
    /// <param name="heat">c [images, filters].</param>
    /// <param name="target">How they are chosen.</param>
    /// <param name="ratio">Its ratio.</param>
    /// <returns>1 (open) or 0 [images, filters], in the caller's scope. By mass, the filter that crosses the ratio is closed, even where it is the first; an image without heat keeps all.</returns>
    /// <exception cref="EspalierException">For a ratio above 1 or none.</exception>
    public static Tensor Fires(Tensor heat, FtwtTarget target, double ratio)
    {
        OptionCheck.Checked(ratio, ratio <= 1, Slug, "ratio", "at most 1");
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        if (ratio < 0)
        {
            return ones_like(heat).MoveToOuterDisposeScope();
        }

        Tensor closed;
        if (target is FtwtTarget.Uniform)
        {
            (_, Tensor order) = sort(heat, 1, descending: false, stable: true);
            Tensor least = order.narrow(1, 0, (long)(ratio * heat.shape[1]));
            closed = (heat <= Delta).scatter_(1, least, ones_like(least).to(ScalarType.Bool));
        }
        else
        {
            Tensor p = heat / heat.sum(1, keepdim: true); // 0/0 compares with nothing: all stay
            if (ratio == 1)
            {
                closed = p <= Delta;
            }
            else
            {
                (Tensor sorted, Tensor order) = sort(p, 1, descending: true, stable: true);
                closed = zeros_like(p).to(ScalarType.Bool).scatter(1, order, sorted.cumsum(1) - ratio > Delta);
            }
        }

        return closed.logical_not().to(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <summary>The loss of one layer's predictor: Σ over filters of the mean over images of the binary cross-entropy.</summary>
    /// <param name="logits">[images, filters].</param>
    /// <param name="fires">Its target.</param>
    public static Tensor MaskLoss(Tensor logits, Tensor fires)
    {
        using var scope = NewDisposeScope();
        return nn.functional.binary_cross_entropy_with_logits(logits, fires, reduction: nn.Reduction.Sum).div(logits.shape[0]).MoveToOuterDisposeScope();
    }

    /// <summary>The share of filters and images for which a predictor is right, in percent.</summary>
    public static double Agreement(Tensor logits, Tensor fires)
    {
        using var scope = NewDisposeScope();
        return 100 * (logits > 0).eq(fires > 0).to(ScalarType.Float64).mean().item<double>();
    }

    /// <inheritdoc/>
    public void Check(VisionModel model, TrainingOptions options)
    {
        options.Validate();
        EspalierException.Require(model.Gates.Count == 0, "The net has gates already; give ftwt the net from which they were trained.");
        EspalierException.Require(model.Gateable.Count > 0, "The net has no convolution with a batch norm behind it, which is what ftwt puts gates on; use a VGG with batch_norm or a ResNet.");
    }

    /// <summary>The net with gates whose predictors know nothing yet.</summary>
    /// <param name="model">The net; it stays as it is.</param>
    /// <param name="seed">The seed of the predictors.</param>
    /// <returns>A new net; the caller disposes it.</returns>
    public VisionModel Gated(VisionModel model, Seed seed)
    {
        VisionModel net = model.WithGates(new GateConfig { Layers = model.Gateable, Softmax = Softmax, Embedding = Embedding < 0 ? null : Embedding, KeepTop = KeepTop }, seed);
        using var frozen = no_grad();
        foreach (GateLayer gate in net.Gates)
        {
            gate.Joint = Mode is FtwtMode.Joint;
            if (WarmStart)
            {
                // What is read is at most 1 after the softmax, and weights within 1/√inputs cannot outweigh this.
                gate.Bias.fill_(1);
            }
        }

        return net;
    }

    /// <summary>The mask that the gates of a net learn, in place of their predictors' choice: the oracle.</summary>
    public Tensor Fires(GateReading reading)
    {
        using Tensor heat = Heat(reading.Activation);
        return Fires(heat, Target, Ratio);
    }
}
