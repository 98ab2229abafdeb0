using System.Globalization;
using Espalier.Runtime;

namespace Espalier.Training;

/// <summary>
/// What a training run does apart from what it trains: length, learning rate, optimiser, bookkeeping.
/// Immutable; every value is checked when it is set, and values against each other by <see cref="Validate"/>.
/// </summary>
public sealed record TrainingOptions
{
    /// <summary>Optimiser steps (each of <see cref="Accumulation"/> micro-batches). Default 1000.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Steps
    {
        get;
        init => field = Checked(value, value >= 1, "The number of steps", "at least 1");
    } = 1000;

    /// <summary>The peak learning rate. Default 1e-3.</summary>
    /// <exception cref="EspalierException">Unless positive and finite.</exception>
    public double LearningRate
    {
        get;
        init => field = Checked(value, value > 0 && double.IsFinite(value), "The learning rate", "a positive number, for example 1e-3");
    } = 1e-3;

    /// <summary><c>adamw</c> (default), <c>sgd</c> or <c>mfac</c>; another optimiser is given to the loop as a part.</summary>
    /// <exception cref="EspalierException">For other words.</exception>
    public string Optimizer
    {
        get;
        init => field = Checked(value, value is "adamw" or "sgd" or "mfac", "The optimizer", "adamw, sgd or mfac");
    } = "adamw";

    /// <summary>AdamW: decay of the mean of gradients. Default 0.9.</summary>
    /// <exception cref="EspalierException">Outside [0, 1).</exception>
    public double Beta1
    {
        get;
        init => field = Checked(value, value is >= 0 and < 1, "beta1", "from 0 up to but not including 1");
    } = 0.9;

    /// <summary>AdamW: decay of the mean of squared gradients. Default 0.999.</summary>
    /// <exception cref="EspalierException">Outside [0, 1).</exception>
    public double Beta2
    {
        get;
        init => field = Checked(value, value is >= 0 and < 1, "beta2", "from 0 up to but not including 1");
    } = 0.999;

    /// <summary>AdamW: added to √v̂. Default 1e-8.</summary>
    /// <exception cref="EspalierException">Unless positive and finite.</exception>
    public double Epsilon
    {
        get;
        init => field = Checked(value, value > 0 && double.IsFinite(value), "Epsilon", "a positive number, for example 1e-8");
    } = 1e-8;

    /// <summary>AdamW: decoupled decay (the weight loses learning rate × this share each step). SGD and M-FAC: added to the gradient. Default 0.</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public double WeightDecay
    {
        get;
        init => field = Checked(value, value >= 0 && double.IsFinite(value), "The weight decay", "0 or a positive number");
    }

    /// <summary>SGD and M-FAC: momentum. Default 0.</summary>
    /// <exception cref="EspalierException">Outside [0, 1).</exception>
    public double Momentum
    {
        get;
        init => field = Checked(value, value is >= 0 and < 1, "The momentum", "from 0 up to but not including 1");
    }

    /// <summary>SGD: Nesterov's step along gradient + momentum · buffer. Default false.</summary>
    public bool Nesterov { get; init; }

    /// <summary>M-FAC: how many gradients its Fisher matrix is made of; memory is so many times the parameters, in float64 below a damping of 1e-3. Default 512.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int FisherGradients
    {
        get;
        init => field = Checked(value, value >= 1, "The number of gradients in the Fisher matrix", "at least 1");
    } = 512;

    /// <summary>M-FAC: added to the diagonal of the Fisher matrix. Default 1e-5.</summary>
    /// <exception cref="EspalierException">Unless positive and finite.</exception>
    public double Damping
    {
        get;
        init => field = Checked(value, value > 0 && double.IsFinite(value), "The damping", "a positive number, for example 1e-5");
    } = 1e-5;

    /// <summary>32 (default), or 8: the optimiser's running means are held as 8-bit codes with a float32 scale per 256 values. Not for M-FAC, which holds gradients.</summary>
    /// <exception cref="EspalierException">For other numbers.</exception>
    public int StateBits
    {
        get;
        init => field = Checked(value, value is 8 or 32, "The number of bits of the optimizer's state", "8 or 32");
    } = 32;

    /// <summary>With 8 <see cref="StateBits"/>: tensors of state with fewer elements stay in float32. Default 4096.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public long StateBitsFrom
    {
        get;
        init => field = Checked(value, value >= 1, "The number of elements from which state is held in 8 bits", "at least 1");
    } = StateStorage.DefaultFrom;

    /// <summary>How an optimiser under these options holds its state.</summary>
    public StateStorage StateStorage => new(StateBits, StateBitsFrom);

    /// <summary><c>constant</c>, <c>linear</c> (default: down to 0), <c>cosine</c> (down to 0) or <c>multistep</c> (at each of <see cref="Milestones"/> times <see cref="MilestoneFactor"/>), each after the warm-up.</summary>
    /// <exception cref="EspalierException">For other words.</exception>
    public string Schedule
    {
        get;
        init => field = Checked(value, value is "constant" or "linear" or "cosine" or "multistep", "The schedule", "constant, linear, cosine or multistep");
    } = "linear";

    /// <summary>For <c>multistep</c>: the shares of the steps after which the learning rate falls, ascending. Default 0.5 and 0.75, as on CIFAR.</summary>
    /// <exception cref="EspalierException">Unless ascending within (0, 1).</exception>
    public IReadOnlyList<double> Milestones
    {
        get;
        init
        {
            bool ascends = value.Zip(value.Skip(1)).All(p => p.First < p.Second) && value.All(m => m is > 0 and < 1);
            EspalierException.Require(ascends, $"The milestones cannot be {string.Join(", ", value.Select(v => Text(v)))}; they must ascend between 0 and 1, for example 0.5 and 0.75.");
            field = value;
        }
    } = [0.5, 0.75];

    /// <summary>For <c>multistep</c>: what the learning rate is multiplied by at each milestone. Default 0.1.</summary>
    /// <exception cref="EspalierException">Unless between 0 and 1.</exception>
    public double MilestoneFactor
    {
        get;
        init => field = Checked(value, value is > 0 and < 1, "The factor at milestones", "between 0 and 1, for example 0.1");
    } = 0.1;

    /// <summary>The share of steps that warm the learning rate up, rounded up to whole steps (PERP's retraining uses 0.1). Default 0.</summary>
    /// <exception cref="EspalierException">Outside [0, 1].</exception>
    public double WarmupFraction
    {
        get;
        init => field = Checked(value, value is >= 0 and <= 1, "The warm-up fraction", "from 0 to 1");
    }

    /// <summary>Exactly how many steps warm the learning rate up; wins over <see cref="WarmupFraction"/>. Default null.</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public int? WarmupSteps
    {
        get;
        init => field = Checked(value, value is null or >= 0, "The number of warm-up steps", "0 or more");
    }

    /// <summary>Gradients whose global L2 norm is above this are scaled down to it; null (default) leaves them.</summary>
    /// <exception cref="EspalierException">Unless positive.</exception>
    public double? ClipNorm
    {
        get;
        init => field = Checked(value, value is null or > 0, "The norm that gradients are clipped to", "positive, or left out");
    }

    /// <summary>Micro-batches whose mean gradient makes one step. Default 1.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Accumulation
    {
        get;
        init => field = Checked(value, value >= 1, "The number of accumulated micro-batches", "at least 1");
    } = 1;

    /// <summary>Steps between two states on disk, where the loop has a folder for them; 0 saves only on cancellation and at the end. Default 500.</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public int SaveEvery
    {
        get;
        init => field = Checked(value, value >= 0, "The number of steps between saved states", "0 or more");
    } = 500;

    /// <summary>Steps between two lines of the log. Default 10.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int LogEvery
    {
        get;
        init => field = Checked(value, value >= 1, "The number of steps between log lines", "at least 1");
    } = 10;

    /// <summary>
    /// After the warm-up, a loss above this many times the best of the last <see cref="LossWatch.Window"/> stops the run as an explosion.
    /// Null (default) only stops on losses and gradients that are not finite.
    /// </summary>
    /// <exception cref="EspalierException">Unless above 1.</exception>
    public double? StopLossFactor
    {
        get;
        init => field = Checked(value, value is null or > 1, "The factor at which a rising loss stops the run", "above 1, for example 10, or left out");
    }

    /// <summary>The warm-up in whole steps: <see cref="WarmupSteps"/>, or else ⌈<see cref="WarmupFraction"/> · <see cref="Steps"/>⌉.</summary>
    public int Warmup => WarmupSteps ?? (int)Math.Ceiling(WarmupFraction * Steps);

    /// <summary>Checks the values against each other.</summary>
    /// <returns>These options.</returns>
    /// <exception cref="EspalierException">When the warm-up is longer than the run, or a setting belongs to the other optimiser.</exception>
    public TrainingOptions Validate()
    {
        EspalierException.Require(Warmup <= Steps,
            $"A warm-up of {Warmup} steps does not fit into {Steps} steps of training; shorten it or train longer.");
        EspalierException.Require(Optimizer is "sgd" or "mfac" || Momentum == 0,
            $"A momentum of {Text(Momentum)} was given, but the optimizer {Optimizer} has none; set beta1, or use sgd.");
        EspalierException.Require(Optimizer != "mfac" || StateBits == 32, "The optimizer mfac holds whole gradients and has no state in 8 bits; use 32 bits, or another optimizer.");
        EspalierException.Require(!Nesterov || (Optimizer == "sgd" && Momentum > 0),
            "Nesterov's step was asked for, but it needs the optimizer sgd with a momentum above 0; give both, for example a momentum of 0.9.");
        return this;
    }

    private static T Checked<T>(T value, bool holds, string what, string wanted)
    {
        EspalierException.Require(holds, $"{what} cannot be {Text(value)}; it must be {wanted}.");
        return value;
    }

    private static string Text(object? value) => Convert.ToString(value, CultureInfo.InvariantCulture) ?? "";
}
