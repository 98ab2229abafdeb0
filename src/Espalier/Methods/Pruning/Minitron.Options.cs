using Espalier.Methods.Retraining;
using Espalier.Pruning;
using Espalier.Training;

namespace Espalier.Methods.Pruning;

/// <summary>Where a distillation keeps its teacher.</summary>
public enum TeacherPlacement
{
    /// <summary>In memory where the budget allows it (2 GiB without one), else streamed.</summary>
    Auto,

    /// <summary>In memory.</summary>
    Resident,

    /// <summary>Read block by block for every batch: memory holds one block of it.</summary>
    Streamed,
}

public sealed partial class Minitron : IRetraining
{
    /// <summary>Optimiser steps of the distillation. Default 400, the paper's light retraining.</summary>
    /// <exception cref="Runtime.EspalierException">Below 1.</exception>
    public int Steps
    {
        get;
        init => field = Checked(value, value >= 1, "number of steps", "at least 1");
    } = 400;

    /// <summary>Sequences per step. Default 8; the paper's cost figures assume 1152.</summary>
    /// <exception cref="Runtime.EspalierException">Below 1.</exception>
    public int Batch
    {
        get;
        init => field = Checked(value, value >= 1, "batch", "at least 1");
    } = 8;

    /// <summary>Tokens per sequence; null (default) takes the model's context, at most 256 on a CPU.</summary>
    /// <exception cref="Runtime.EspalierException">Below 2.</exception>
    public int? Length
    {
        get;
        init => field = Checked(value, value is null or >= 2, "sequence length", "at least 2");
    }

    /// <summary>The peak learning rate of AdamW. Default 2e-4 as published; small models want more.</summary>
    /// <exception cref="Runtime.EspalierException">Unless positive.</exception>
    public double LearningRate
    {
        get;
        init => field = Checked(value, value > 0 && double.IsFinite(value), "learning rate", "a positive number, for example 2e-4");
    } = 2e-4;

    /// <summary>The rate towards which the cosine falls. Default 4.5e-7 as published.</summary>
    /// <exception cref="Runtime.EspalierException">When negative.</exception>
    public double FinalLearningRate
    {
        get;
        init => field = Checked(value, value >= 0 && double.IsFinite(value), "final learning rate", "0 or a positive number below the learning rate");
    } = 4.5e-7;

    /// <summary>The share of steps that warm the learning rate up from 0. Default 0.</summary>
    /// <exception cref="Runtime.EspalierException">Outside [0, 1].</exception>
    public double WarmupFraction
    {
        get;
        init => field = Checked(value, value is >= 0 and <= 1, "warm-up fraction", "from 0 to 1");
    }

    /// <summary>AdamW's decoupled weight decay. Default 0.</summary>
    /// <exception cref="Runtime.EspalierException">When negative.</exception>
    public double WeightDecay
    {
        get;
        init => field = Checked(value, value >= 0 && double.IsFinite(value), "weight decay", "0 or a positive number");
    }

    /// <summary>
    /// Where hidden states are matched as well: any of <c>embedding</c>, <c>attention_input</c>, <c>mlp_input</c>, <c>block_output</c>.
    /// Default none, the paper's choice unless depth was cut strongly; then <c>[embedding, block_output]</c>.
    /// </summary>
    public HiddenPlaces HiddenStates { get; init; }

    /// <summary>Where the teacher is kept: <c>auto</c> (default), <c>resident</c> or <c>streamed</c>. The numbers are the same.</summary>
    public TeacherPlacement Teacher { get; init; }

    /// <summary>A folder or hub id of another teacher with the same tokeniser; null (default) takes the dense model that was pruned.</summary>
    public string? TeacherModel { get; init; }

    /// <inheritdoc/>
    /// <remarks>Weights, gradients, AdamW's two moments and the loop's last good copy.</remarks>
    public int BytesPerParameter => 20;

    private static T Checked<T>(T value, bool holds, string what, string wanted) => OptionCheck.Checked(value, holds, "minitron", what, wanted);
}
