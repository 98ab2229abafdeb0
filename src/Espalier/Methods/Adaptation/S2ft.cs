using Espalier.Catalogue;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Methods.Adaptation;

/// <summary>How S²FT chooses the heads and channels that it trains.</summary>
public enum S2ftSelection
{
    /// <summary>By chance, the official choice.</summary>
    Random,

    /// <summary>By the norm of the unit's weights in the map that is trained (reconstructed).</summary>
    Weight,

    /// <summary>By the norm of what the unit gives to the map that reads it, on calibration batches (reconstructed).</summary>
    Activation,

    /// <summary>By the norm of the loss's gradient of those weights, on calibration batches (reconstructed).</summary>
    Gradient,
}

/// <summary>S²FT: trains a few whole attention heads and feed-forward channels as dense parts of the weights themselves, and nothing else.</summary>
/// <remarks>
/// The units of a coupled structure are moved so that those that are trained stand together, which changes nothing that is computed; then each trained
/// part is one range of rows (values, up) or columns (output, down), with gradients, moments and saved inputs of that range alone. At the end units go back.
/// </remarks>
[Method("s2ft", "S^{2}FT: Efficient, Scalable and Generalizable LLM Fine-tuning by Structured Sparsity", Family = "Adaptation", Source = "Yang et al., NeurIPS 2024",
    Summary = "Trains a few whole heads and feed-forward channels in place: a cheaper backward pass and less memory than full fine-tuning, and adapters that are added and switched without a product.",
    Fits = "adaptation of language models; any optimiser; pruned bases keep their zeros; fuses with any adapter")]
public sealed partial record S2ft : IAdaptation
{
    /// <summary>The share of feed-forward channels whose inputs of the down projection are trained. Default 0.03 (the official runs).</summary>
    /// <exception cref="EspalierException">Outside [0, 1].</exception>
    public double DownRatio
    {
        get;
        init => field = Ratio(value, "share of down channels");
    } = 0.03;

    /// <summary>The share of feed-forward channels whose outputs of the up projection are trained. Default 0.</summary>
    /// <exception cref="EspalierException">Outside [0, 1].</exception>
    public double UpRatio
    {
        get;
        init => field = Ratio(value, "share of up channels");
    }

    /// <summary>The share of heads (of key-value groups where heads share) whose outputs of the value projection are trained. Default 0.</summary>
    /// <exception cref="EspalierException">Outside [0, 1].</exception>
    public double ValueRatio
    {
        get;
        init => field = Ratio(value, "share of value heads");
    }

    /// <summary>The share of heads (of key-value groups) whose inputs of the output projection are trained. Default 0.</summary>
    /// <exception cref="EspalierException">Outside [0, 1].</exception>
    public double OutputRatio
    {
        get;
        init => field = Ratio(value, "share of output heads");
    }

    /// <summary>How they are chosen, over the whole model at once. Default random.</summary>
    public S2ftSelection Selection { get; init; }

    /// <summary>Whether those with the largest score are trained; else the smallest. Not for random. Default true.</summary>
    public bool Largest { get; init; } = true;

    /// <summary>Batches that activations or gradients are measured on. Default 4.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int CalibrationBatches
    {
        get;
        init => field = OptionCheck.Checked(value, value >= 1, "s2ft", "number of calibration batches", "at least 1");
    } = 4;

    /// <summary>The optimiser of the efficiency code: AdamW with ε (1e-6) outside the bias correction, in place of the training's own. Default false.</summary>
    public bool OfficialOptimizer { get; init; }

    /// <inheritdoc/>
    public void Check(IReadOnlyList<NetWeight> weights, TrainingOptions options)
    {
        EspalierException.Require(weights.Any(w => w.Linear is not null), "s2ft moves heads and channels of a language model's blocks; it does not work on vision nets.");
        string? packed = weights.FirstOrDefault(w => w.IsCompact)?.Name;
        EspalierException.Require(packed is null, $"{packed} is stored in a packed form, and s2ft trains weights in place; use the model that it was packed from.");
        EspalierException.Require(DownRatio + UpRatio + ValueRatio + OutputRatio > 0, "s2ft has nothing to train: every share is 0; give one, for example down_ratio 0.03.");
    }

    /// <inheritdoc/>
    public IAdaptationRun Begin(AdaptationContext context)
    {
        Check(context.Weights, context.Options);
        LanguageModel model = context.Language ?? throw new EspalierException("s2ft works on language models.");
        return context.Saved is null ? S2ftRun.Start(this, context, S2ftUnits.Choose(this, context, model)) : S2ftRun.Open(this, context);
    }

    private static double Ratio(double value, string what) => OptionCheck.Checked(value, value is >= 0 and <= 1, "s2ft", what, "from 0 to 1");
}
