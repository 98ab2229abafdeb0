using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Merging with a proof: the net's answers with the adapter beside its weights and with the adapter in them.</summary>
/// <param name="Largest">The largest difference of two logits on the probe batch.</param>
/// <param name="Relative">‖merged − beside‖ / ‖beside‖ over the probe batch.</param>
public sealed record AdapterMerge(double Largest, double Relative)
{
    /// <summary>The largest difference that is let pass unless something else is said: float32 rounding of a deep net is far below it.</summary>
    public const double Bound = 1e-3;

    /// <summary>The logits of a language model on a batch that is the same every time: four windows of random tokens.</summary>
    /// <param name="model">The model.</param>
    public static Func<Tensor> Probe(LanguageModel model)
    {
        long length = Math.Min(32, model.Config.MaxPositions);
        return () =>
        {
            using var scope = NewDisposeScope();
            using var _ = no_grad();
            using Generator generator = new Seed(0).Generator("probe");
            return model.Logits((rand([4, length], ScalarType.Float32, generator: generator) * model.Config.VocabSize).to(ScalarType.Int64).to(model.Device)).MoveToOuterDisposeScope();
        };
    }

    /// <summary>The output of a vision net on a batch that is the same every time: eight images of noise.</summary>
    /// <param name="net">The net.</param>
    public static Func<Tensor> Probe(VisionModel net) => () =>
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using Generator generator = new Seed(0).Generator("probe");
        return net.Forward(randn([8, net.Config.Channels, net.Config.ImageSize, net.Config.ImageSize], ScalarType.Float32, generator: generator).to(net.Device)).MoveToOuterDisposeScope();
    };

    /// <summary>Folds an adapter in, in float32, and compares.</summary>
    /// <param name="run">The adapter on its net.</param>
    /// <param name="probe">The net's logits on a batch, in the caller's scope.</param>
    /// <param name="bound">A larger difference takes the merge back and is an error; null lets any pass.</param>
    /// <exception cref="EspalierException">When the difference is above the bound (the net is then as it was), or pruned weights would be filled.</exception>
    public static AdapterMerge Fold(IAdaptationRun run, Func<Tensor> probe, double? bound = Bound)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor beside = probe();
        run.Merge();
        Tensor difference = probe() - beside;
        var merge = new AdapterMerge(difference.abs().max().item<float>(), difference.norm().item<float>() / Math.Max(1e-30, beside.norm().item<float>()));
        if (bound is { } limit && !(merge.Largest <= limit))
        {
            run.Unmerge();
            throw new EspalierException(FormattableString.Invariant(
                $"Merging changes logits by up to {merge.Largest:G3} on the probe batch, more than the {limit:G3} that is let pass, so nothing was merged; allow more if that is wanted, or keep the adapter beside the model."));
        }

        return merge;
    }
}
