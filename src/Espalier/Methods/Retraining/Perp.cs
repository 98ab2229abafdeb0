using System.Globalization;
using System.Numerics;
using Espalier.Catalogue;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Retraining;

/// <summary>
/// PERP: parameter-efficient retraining after pruning. Recovers a pruned network by training only a small, well-chosen part of
/// it (biases, norms, a head adapter, adapters that preserve sparsity), in minutes and with little memory. The result has
/// exactly the zeros that the pruned network had.
/// </summary>
/// <remarks>
/// Zimmer, Andoni, Spiegel, Pokutta, "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs". As retraining it minimises
/// the model's own loss; as repair it rebuilds one block after the other from the dense block's outputs.
/// </remarks>
[Method("perp", "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs",
    Family = "Retraining",
    Source = "Zimmer, Andoni, Spiegel, Pokutta, arXiv 2312.15230",
    Summary = "Retrains a fraction of a percent of a pruned model (biases, norms, MaskLoRA, ScaleLoRA) and keeps its zeros.",
    Fits = "retraining, or layer-wise reconstruction as repair; any criterion, pattern and allocator; vision nets: `espalier train --method perp`")]
public sealed partial class Perp : IRetraining, IBlockRepair, IVisionMethod
{
    private const Subset AdapterKinds = Subset.Lora | Subset.LoraPrune | Subset.MaskLora | Subset.ScaleLora;

    /// <summary>What is trained. Default: biases, norms, head and MaskLoRA, the official choice.</summary>
    /// <exception cref="EspalierException">For nothing, several kinds of adapter, or adapters beside everything.</exception>
    public Subset Subset
    {
        get;
        init
        {
            field = value;
            Validate();
        }
    } = Subset.Biases | Subset.Norms | Subset.Head | Subset.MaskLora;

    /// <summary>The rank r of adapters. Default 16 (the official one); 4 to 64 is usual.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Rank
    {
        get;
        init => field = Checked(value, value >= 1, "rank", "at least 1");
    } = 16;

    /// <summary>The strength of adapters; what they add is multiplied by alpha/r. Default 32 (the official one: twice the rank). ScaleLoRA does not use it.</summary>
    /// <exception cref="EspalierException">Unless positive.</exception>
    public double Alpha
    {
        get;
        init => field = Checked(value, value > 0 && double.IsFinite(value), "alpha", "a positive number, usually twice the rank");
    } = 32;

    /// <summary>Optimiser steps T, of the whole model or of each block. Default 200; the paper tunes it from 20 to 5000.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Steps
    {
        get;
        init => field = Checked(value, value >= 1, "number of steps", "at least 1");
    } = 200;

    /// <summary>
    /// The peak learning rate of AdamW; null (default) takes what worked on small models: 1e-2 for biases and norms alone,
    /// 3e-3 with adapters, 1e-3 for everything. The paper tunes it over 1e-5 to 1e-2: small subsets want a larger one.
    /// </summary>
    /// <exception cref="EspalierException">Unless positive.</exception>
    public double? LearningRate
    {
        get;
        init => field = Checked(value, value is null || (value > 0 && double.IsFinite(value.Value)), "learning rate", "a positive number, for example 3e-3");
    }

    /// <summary>Sequences per step when retraining (reconstruction always takes one). Default 8; the official scripts accumulate 2.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Batch
    {
        get;
        init => field = Checked(value, value >= 1, "batch", "at least 1");
    } = 8;

    /// <summary>Tokens per sequence when retraining; null (default) takes the model's context, at most 256 on a CPU.</summary>
    /// <exception cref="EspalierException">Below 2.</exception>
    public int? Length
    {
        get;
        init => field = Checked(value, value is null or >= 2, "sequence length", "at least 2");
    }

    /// <inheritdoc/>
    /// <remarks>Under the subset full gradients, AdamW's two moments and the loop's last good copy stand beside every weight.</remarks>
    public int BytesPerParameter => Subset.HasFlag(Subset.Full) ? 20 : 8;

    /// <summary>AdamW's decoupled weight decay. Default 0 (the official one).</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public double WeightDecay
    {
        get;
        init => field = Checked(value, value >= 0 && double.IsFinite(value), "weight decay", "0 or a positive number");
    }

    /// <summary>The kind of adapter on the pruned linear maps, or none.</summary>
    internal Subset AdapterKind => Subset & AdapterKinds;

    /// <summary>The peak learning rate in force.</summary>
    internal double PeakLearningRate => LearningRate ?? (Subset.HasFlag(Subset.Full) ? 1e-3 : (Subset & (AdapterKinds | Subset.Head)) != 0 ? 3e-3 : 1e-2);

    /// <summary>A subset's word in plans ("mask_lora").</summary>
    internal static string WordOf(Subset kind) => kind switch
    {
        Subset.MaskLora => "mask_lora",
        Subset.LoraPrune => "lora_prune",
        Subset.ScaleLora => "scale_lora",
        _ => kind.ToString().ToLowerInvariant(),
    };

    /// <inheritdoc/>
    /// <exception cref="EspalierException">When the subset selects nothing of this model, a rank does not fit, or plain LoRA could not be merged.</exception>
    public void Check(ModelConfig config, DecoderBlock block, OutputHead head)
    {
        RequireMergeable();
        TrainableSubset.RequireAny([block, head], this, head.Projection);
    }

    /// <inheritdoc/>
    public void Check(DecoderBlock block)
    {
        RequireMergeable();
        TrainableSubset.RequireAny([block], this, head: null);
    }

    /// <inheritdoc/>
    public RetrainingResult Retrain(RetrainingContext context)
    {
        RequireMergeable();
        using TrainableSubset subset = TrainableSubset.Select(context.Model, this, context.Masks, context.Seed, context.Progress);
        var options = new TrainingOptions { Steps = Steps, LearningRate = PeakLearningRate, WeightDecay = WeightDecay, WarmupSteps = PerpSchedule.Warmup(PerpMode.Retrain, Steps) };
        using var scope = NewDisposeScope();
        using var loop = new TrainingLoop(options, subset.Parameters, new LanguageModelObjective(context.Model, context.Batches))
        {
            Masks = MasksOf(context.Model.Blocks, context.Masks),
            StateFolder = context.StateFolder,
            Progress = context.Progress,
            Identity = string.Create(CultureInfo.InvariantCulture, $"perp {Subset}, rank {Rank}, alpha {Alpha}, batch {Batch}, length {Length}, seed {context.Seed.Value}"),
        };
        TrainingResult result = TrainingLoop.HasState(context.StateFolder) ? loop.Resume(context.Cancellation) : loop.Run(context.Cancellation);
        subset.Merge(context.Progress);
        KeptZeros.Require(context.Model.Blocks, context.Masks, "perp");
        return new RetrainingResult(subset.Count, result.Losses, result.Seconds, new Dictionary<string, long>(subset.Groups));
    }

    /// <summary>Checks the subset on its own.</summary>
    /// <exception cref="EspalierException">For nothing, several kinds of adapter, or adapters beside everything.</exception>
    internal void Validate()
    {
        EspalierException.Require(Subset is not Subset.None, "PERP needs a subset of the parameters to train: biases, norms, head, mask_lora, scale_lora, lora_prune, lora or full.");
        EspalierException.Require(BitOperations.PopCount((uint)AdapterKind) <= 1,
            $"The subset {Subset.ToString().ToLowerInvariant()} names several kinds of adapter, but a linear map takes one; use mask_lora, scale_lora, lora_prune or lora.");
        EspalierException.Require(!Subset.HasFlag(Subset.Full) || (Subset & (AdapterKinds | Subset.Head)) == 0,
            "The subset full already trains every weight, so adapters beside it make no sense; name full alone.");
    }

    /// <summary>Everything that is trained directly and was pruned (subset full) keeps its zeros by mask.</summary>
    private Dictionary<string, Tensor>? MasksOf(IEnumerable<DecoderBlock> blocks, IReadOnlyDictionary<string, SparsityMask> masks) =>
        Subset.HasFlag(Subset.Full) ? KeptZeros.Masks(blocks, masks) : null;

    private void RequireMergeable() => EspalierException.Require(AdapterKind is not Subset.Lora,
        "Plain LoRA cannot be folded into pruned weights without filling their zeros, so the result could not be written; use the subset mask_lora, which merges exactly, or lora_prune.");

    private static T Checked<T>(T value, bool holds, string what, string wanted) => OptionCheck.Checked(value, holds, "perp", what, wanted);
}
