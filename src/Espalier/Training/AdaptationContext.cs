using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>What an adaptation is given.</summary>
public sealed record AdaptationContext
{
    /// <summary>The weights that can carry adapters, in the net's order: a language model's maps with an untied head last, or all of a vision net.</summary>
    public required IReadOnlyList<NetWeight> Weights { get; init; }

    /// <summary>Every parameter of the net under its checkpoint name.</summary>
    public required IReadOnlyList<(string Name, Parameter Value)> Parameters { get; init; }

    /// <summary>The head's weight (the classifier of a vision net); null where it is tied to the token table.</summary>
    public NetWeight? Head { get; init; }

    /// <summary>The language model; null for a vision net.</summary>
    public LanguageModel? Language { get; init; }

    /// <summary>The vision net; null for a language model.</summary>
    public VisionModel? Net { get; init; }

    /// <summary>The masks [out, in·k·k] of a pruned base by weight name: their zeros must stay.</summary>
    public IReadOnlyDictionary<string, SparsityMask> Masks { get; init; } = new Dictionary<string, SparsityMask>();

    /// <summary>How it is trained; schedules are laid out over its steps.</summary>
    public TrainingOptions Options { get; init; } = new();

    /// <summary>The loss of (step, micro-batch), for calibration before training; null where a saved adapter is opened.</summary>
    public ITrainingObjective? Objective { get; init; }

    /// <summary>The loss of single samples (sample, 0), for methods that weigh samples one by one; null where there are none.</summary>
    public ITrainingObjective? Samples { get; init; }

    /// <summary>The folder of a saved adapter that is to be opened; null begins a new one.</summary>
    public string? Saved { get; init; }

    /// <summary>The folder or hub id of the net, for the adapter's file; null where it has none.</summary>
    public string? Origin { get; init; }

    /// <summary>The seed of everything that is drawn.</summary>
    public Seed Seed { get; init; }

    /// <summary>Where progress and warnings are told.</summary>
    public IProgressSink Progress { get; init; } = SilentProgress.Instance;

    /// <summary>What a language model gives to it.</summary>
    /// <param name="model">The model.</param>
    /// <param name="masks">The masks of a pruned base; null for none.</param>
    public static AdaptationContext Of(LanguageModel model, IReadOnlyDictionary<string, SparsityMask>? masks = null)
    {
        NetWeight? head = NetWeight.HeadOf(model);
        return new AdaptationContext
        {
            Weights = [.. NetWeight.Of(model), .. head is null ? [] : (NetWeight[])[head]],
            Parameters = [.. model.Tensors],
            Head = head,
            Language = model,
            Masks = masks ?? new Dictionary<string, SparsityMask>(),
        };
    }

    /// <summary>What a vision net gives to it.</summary>
    /// <param name="net">The net.</param>
    /// <param name="masks">The masks of a pruned base; null for none.</param>
    public static AdaptationContext Of(VisionModel net, IReadOnlyDictionary<string, SparsityMask>? masks = null)
    {
        IReadOnlyList<NetWeight> weights = NetWeight.Of(net);
        return new AdaptationContext { Weights = weights, Parameters = net.Parameters, Head = weights[^1], Net = net, Masks = masks ?? new Dictionary<string, SparsityMask>() };
    }

    /// <summary>The mask of a weight as a new bool tensor [out, in·k·k] on its device; null where it is dense.</summary>
    /// <param name="weight">The weight.</param>
    public Tensor? Keep(NetWeight weight) => Masks.GetValueOrDefault(weight.Name)?.ToTensor(weight.Value.device);

    /// <summary>Gradients of the loss at the net as it is, for methods that calibrate on them: one backward pass a batch, each weight's gradient shown and freed.</summary>
    /// <param name="weights">Whose gradients.</param>
    /// <param name="batches">How many batches.</param>
    /// <param name="see">Sees a weight and ∂L/∂W as [out, in·k·k]; must not keep it without copying.</param>
    /// <param name="single">Whether each pass is of one sample (<see cref="Samples"/>) in place of a batch.</param>
    /// <exception cref="EspalierException">Without an objective.</exception>
    public void EachGradient(IReadOnlyList<NetWeight> weights, int batches, Action<NetWeight, Tensor> see, bool single = false)
    {
        ITrainingObjective loss = single && Samples is not null ? Samples : Calibrating();
        bool[] before = [.. Parameters.Select(p => p.Value.requires_grad)];
        try
        {
            var wanted = weights.Select(w => w.Value).ToHashSet<Parameter>(ReferenceEqualityComparer.Instance);
            foreach ((_, Parameter value) in Parameters)
            {
                value.requires_grad = wanted.Contains(value);
            }

            for (int batch = 0; batch < batches; batch++)
            {
                using var scope = NewDisposeScope();
                loss.Loss(batch, 0).backward();
                using var frozen = no_grad();
                foreach (NetWeight weight in weights)
                {
                    if (weight.Value.grad is { } gradient)
                    {
                        see(weight, weight.AsMatrix(gradient));
                    }
                }

                Gradients.Clear([.. weights.Select(w => (w.Name, w.Value))]);
            }
        }
        finally
        {
            foreach (((_, Parameter value), bool required) in Parameters.Zip(before))
            {
                value.requires_grad = required;
            }
        }
    }

    /// <summary>Inputs of weights at the net as it is, without gradients.</summary>
    /// <param name="weights">Whose inputs.</param>
    /// <param name="batches">How many batches.</param>
    /// <param name="see">Sees a weight and its input as rows [rows, in·k·k]; must not keep it without copying.</param>
    /// <exception cref="EspalierException">Without an objective.</exception>
    public void EachInput(IReadOnlyList<NetWeight> weights, int batches, Action<NetWeight, Tensor> see)
    {
        ITrainingObjective loss = Calibrating();
        try
        {
            foreach (NetWeight weight in weights)
            {
                weight.Observe(input =>
                {
                    using var scope = NewDisposeScope();
                    see(weight, weight.InputRows(input.detach()));
                });
            }

            using var frozen = no_grad();
            for (int batch = 0; batch < batches; batch++)
            {
                using var scope = NewDisposeScope();
                loss.Loss(batch, 0);
            }
        }
        finally
        {
            foreach (NetWeight weight in weights)
            {
                weight.Observe(null);
            }
        }
    }

    private ITrainingObjective Calibrating() => Objective ?? throw new EspalierException("This adaptation looks at data before it trains, and none is there; begin it with training data.");
}
