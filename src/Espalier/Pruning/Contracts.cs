using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>Trains part of one pruned block to answer as the dense block did (layer-wise reconstruction).</summary>
public interface IBlockRepair
{
    /// <summary>Trains the block in place; its zeros stay.</summary>
    /// <returns>The mean squared error of the block's output before and after.</returns>
    BlockRepairResult Repair(BlockRepairContext context);

    /// <summary>Throws, before any work, where this cannot be done to such a block.</summary>
    /// <param name="block">One of the model's blocks, without weights of value.</param>
    void Check(DecoderBlock block)
    {
    }
}

/// <summary>What a layer-wise reconstruction is given.</summary>
public sealed class BlockRepairContext
{
    /// <summary>The pruned block; float32.</summary>
    public required DecoderBlock Block { get; init; }

    /// <summary>The masks of its linear maps by weight name.</summary>
    public required IReadOnlyDictionary<string, SparsityMask> Masks { get; init; }

    /// <summary>The hidden states [sequences, tokens, hidden] that enter the block.</summary>
    public required ActivationStore Inputs { get; init; }

    /// <summary>What the dense block made of them.</summary>
    public required ActivationStore Targets { get; init; }

    /// <summary>The seed of this block.</summary>
    public required Seed Seed { get; init; }

    /// <summary>Where progress is told.</summary>
    public required IProgressSink Progress { get; init; }

    /// <summary>Ends the work early; nothing of the block is then kept.</summary>
    public CancellationToken Cancellation { get; init; }
}

/// <summary>What a layer-wise reconstruction achieved.</summary>
/// <param name="ErrorBefore">Mean squared error of the block's output over all sequences, before.</param>
/// <param name="ErrorAfter">The same, after.</param>
/// <param name="Trained">How many parameters were trained.</param>
/// <param name="Kept">False where the error did not fall and the block was left as it was.</param>
public sealed record BlockRepairResult(double ErrorBefore, double ErrorAfter, long Trained, bool Kept);

/// <summary>Trains a pruned model on its own loss, keeping its zeros.</summary>
public interface IRetraining
{
    /// <summary>Optimiser steps.</summary>
    int Steps { get; }

    /// <summary>Sequences per optimiser step.</summary>
    int Batch { get; }

    /// <summary>Tokens per sequence; null takes the model's context, at most 256 on a CPU.</summary>
    int? Length { get; }

    /// <summary>Tokens per sequence for a model.</summary>
    int LengthFor(ModelConfig config) => Length ?? Math.Min(256, config.MaxPositions);

    /// <summary>Bytes held for every parameter of the model while it is trained, for the preview; by default the weight and room for a small trained share.</summary>
    int BytesPerParameter => 8;

    /// <summary>Throws, before any work, where this cannot be done to such a model ("biases" of a model without).</summary>
    /// <param name="config">The model.</param>
    /// <param name="block">One of its blocks, without weights of value.</param>
    /// <param name="head">Its head.</param>
    void Check(ModelConfig config, DecoderBlock block, OutputHead head);

    /// <summary>Trains in place and merges what it added; the model's zeros stay.</summary>
    RetrainingResult Retrain(RetrainingContext context);
}

/// <summary>What a retraining is given.</summary>
public sealed class RetrainingContext
{
    /// <summary>The pruned model; float32, in memory.</summary>
    public required LanguageModel Model { get; init; }

    /// <summary>The dense model before pruning, opened and not loaded: the teacher of a distillation. Null where there is none.</summary>
    public StreamedModel? Dense { get; init; }

    /// <summary>The masks of its pruned weights by name.</summary>
    public required IReadOnlyDictionary<string, SparsityMask> Masks { get; init; }

    /// <summary>Token ids [batch, length] of micro-batch (step, index): a pure function, so that a resumed run sees the same text.</summary>
    public required Func<long, int, Tensor> Batches { get; init; }

    /// <summary>The most resident memory in bytes that the run may plan with; null is no limit.</summary>
    public long? Memory { get; init; }

    /// <summary>The seed of the plan.</summary>
    public required Seed Seed { get; init; }

    /// <summary>Where optimiser and adapter state is kept for resuming.</summary>
    public required string StateFolder { get; init; }

    /// <summary>Where progress is told.</summary>
    public required IProgressSink Progress { get; init; }

    /// <summary>Ends the work early, state saved.</summary>
    public CancellationToken Cancellation { get; init; }
}

/// <summary>What a retraining did.</summary>
/// <param name="Trained">The parameters that were trained.</param>
/// <param name="Losses">The loss of each step; <see cref="LossName"/> says which.</param>
/// <param name="Seconds">Wall-clock time.</param>
/// <param name="Groups">Trained parameters by kind ("norms", "masklora").</param>
public sealed record RetrainingResult(long Trained, IReadOnlyList<double> Losses, double Seconds, IReadOnlyDictionary<string, long> Groups)
{
    /// <summary>The configuration of the trained model where training changed it (another activation); null where it did not.</summary>
    public ModelConfig? Config { get; init; }

    /// <summary>What the losses are, for the report's axis.</summary>
    public string LossName { get; init; } = "cross-entropy, nats per token";

    /// <summary>How many feed-forward activations are zero, block by block, where training was for that; null where it was not.</summary>
    public IReadOnlyList<ActivationSparsity>? Activations { get; init; }
}

/// <summary>How many activations of one block's feed-forward part (what enters its last map) are exactly zero on held-out batches of the training text.</summary>
/// <param name="Block">The block's number.</param>
/// <param name="Before">The share of zeros before training.</param>
/// <param name="Trained">The share after training.</param>
/// <param name="Shifted">The share with the activation's threshold moved; that of the written model.</param>
/// <param name="Dead">Neurons of the written model that no token activated.</param>
/// <param name="Neurons">All neurons of the block.</param>
public sealed record ActivationSparsity(int Block, double Before, double Trained, double Shifted, long Dead, long Neurons);
