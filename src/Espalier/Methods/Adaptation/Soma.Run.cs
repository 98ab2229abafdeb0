using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;
using AdamW = Espalier.Training.AdamW;

namespace Espalier.Methods.Adaptation;

public sealed partial record Soma
{
    // Below this share of the largest, all minor singular values are as good as 0.
    private const double Vanishing = 1e-6;

    /// <summary>
    /// Step 1: the block of each weight by its place; null for one that belongs to none (a stem, the head). Blocks are what names number ("layers.3.", "layer1.0."), in order;
    /// where no name has a number of its own, every weight but the head is a block.
    /// </summary>
    /// <param name="weights">The weights of the net, in order.</param>
    public static IReadOnlyList<int?> BlocksOf(IReadOnlyList<NetWeight> weights)
    {
        string?[] stems = [.. weights.Select(w => w.IsHead ? null : StemOf(w.Module))];
        if (stems.All(s => s is null))
        {
            stems = [.. weights.Select(w => w.IsHead ? null : w.Module)];
        }

        string[] blocks = [.. stems.OfType<string>().Distinct()];
        return [.. stems.Select(s => s is null ? (int?)null : Array.IndexOf(blocks, s))];
    }

    /// <inheritdoc/>
    public override void Check(IReadOnlyList<NetWeight> weights, TrainingOptions options)
    {
        EspalierException.Require(options.Optimizer is "adamw" or "sgd", $"soma anneals the weight decay of adamw or sgd, not of {options.Optimizer}.");
        base.Check(weights, options);
        foreach ((NetWeight weight, long rank) in Plan(weights))
        {
            EspalierException.Require(rank <= Math.Min(weight.Rows, weight.Columns), $"soma.rank gives {weight.Name} the rank {rank}, but it has {Math.Min(weight.Rows, weight.Columns)} singular values; use a smaller rank.");
        }
    }

    /// <inheritdoc/>
    /// <remarks>Frozen blocks are no targets; biases of the others are trained, and the head of a vision net.</remarks>
    public override IAdaptationRun Begin(AdaptationContext context)
    {
        if (context.Saved is not null)
        {
            return base.Begin(context);
        }

        Check(context.Weights, context.Options);
        NetWeight[] targets = [.. Plan(context.Weights).Select(p => p.Weight)];
        var names = context.Parameters.Select(p => p.Name).ToHashSet(StringComparer.Ordinal);
        IEnumerable<string> biases = Biases ? targets.Select(t => $"{t.Module}.bias").Where(names.Contains) : [];
        return (this with { Targets = [.. targets.Select(t => t.Module)], Train = [.. Train, .. context.Net is null ? [] : (string[])["head"], .. biases] }).BeginOnTargets(context);
    }

    /// <inheritdoc/>
    protected internal override IReadOnlyList<ILinearAdapter> Make(AdaptationContext context, IReadOnlyList<NetWeight> targets)
    {
        Dictionary<string, long> ranks = Ranks(context.Weights);
        var adapters = new List<ILinearAdapter>();
        foreach (NetWeight target in targets)
        {
            using var scope = NewDisposeScope();
            long rank = ranks[target.Name];
            ThinSvd svd = ThinSvd.Of(target.Matrix(), target.Name), part = Part(svd, rank, FirstEigen, target.Name);
            if (!(part.S[0].item<double>() >= Vanishing * svd.S[0].item<double>()) || svd.S[0].item<double>() == 0)
            {
                context.Progress.Warn($"{target.Name} is so deficient in rank that its minor components are zero: A and B start at 0 and never learn; take lora, whose A starts at random, for this weight.");
            }

            double scaling = (Alpha ?? rank) / rank;
            (Tensor a, Tensor b) = SomaAdapter.Factors(part, scaling);
            adapters.Add(new SomaAdapter(a, b, scaling, whole: true));
        }

        return adapters;
    }

    /// <inheritdoc/>
    protected override WeightAdaptationRun NewRun(AdaptationContext context, IReadOnlyList<NetWeight> targets, IReadOnlyList<ILinearAdapter> adapters, IReadOnlyList<(string Name, Parameter Value)> whole) =>
        new SomaRun(this, context, targets, adapters, whole);

    private IAdaptationRun BeginOnTargets(AdaptationContext context) => base.Begin(context);

    private IReadOnlyList<(NetWeight Weight, long Rank)> Plan(IReadOnlyList<NetWeight> weights)
    {
        Dictionary<string, long> ranks = Ranks(weights);
        (NetWeight Weight, long Rank)[] plan = [.. NetSelection.Weights(weights, Targets).Select(t => (t, ranks.GetValueOrDefault(t.Name))).Where(p => p.Item2 > 0)];
        int blocks = BlocksOf(weights).Max() + 1 ?? 0;
        EspalierException.Require(plan.Length > 0, $"soma has nothing to train: its targets lie in none of the blocks from {FirstBlock(blocks)} on, and this net has {blocks} blocks, from 0; lower start_index or name other targets.");
        return plan;
    }

    private Dictionary<string, long> Ranks(IReadOnlyList<NetWeight> weights)
    {
        IReadOnlyList<int?> blocks = BlocksOf(weights);
        int start = FirstBlock(blocks.Max() + 1 ?? 0);
        return weights.Zip(blocks).Where(w => w.Second is not null).ToDictionary(w => w.First.Name, w => RankOf(w.Second!.Value, Rank, start, RankRamp ? RampIndices : null), StringComparer.Ordinal);
    }

    private int FirstBlock(int blocks) => StartIndex ?? blocks / 3;

    // "model.layers.3.mlp.up_proj" belongs to "model.layers.3"; the number must stand inside the name.
    private static string? StemOf(string module)
    {
        string[] parts = module.Split('.');
        int at = Array.FindIndex(parts, p => p.Length > 0 && p.All(char.IsAsciiDigit));
        return at < 0 || at == parts.Length - 1 ? null : string.Join('.', parts[..(at + 1)]);
    }
}

/// <summary>One training with SoMA: the weight decay of every step is set, and the learning rate falls by a power.</summary>
public sealed class SomaRun : WeightAdaptationRun
{
    private readonly Soma _method;

    /// <summary>Attaches the adapters.</summary>
    public SomaRun(Soma method, AdaptationContext context, IReadOnlyList<NetWeight> targets, IReadOnlyList<ILinearAdapter> adapters, IReadOnlyList<(string Name, Parameter Value)> whole)
        : base(method, context, targets, adapters, whole) => _method = method;

    /// <inheritdoc/>
    public override Func<IReadOnlyList<OptimizedParameter>, IOptimizer>? Optimizer => parameters => Context.Options switch
    {
        { Optimizer: "sgd" } sgd => new Sgd(parameters, sgd.Momentum, _method.WeightDecay, sgd.Nesterov),
        { } adam => new AdamW(parameters, adam.Beta1, adam.Beta2, adam.Epsilon, _method.WeightDecay),
    };

    /// <inheritdoc/>
    /// <remarks>Everything but the head learns at the backbone's rate.</remarks>
    public override Func<string, ParameterGroup>? Groups => name =>
        new ParameterGroup(RateMultiplier: Context.Head is { } head && name.StartsWith($"{head.Module}.", StringComparison.Ordinal) ? 1 : _method.BackboneRate);

    /// <inheritdoc/>
    public override Func<long, double>? Schedule => step => Soma.PolynomialRate(step, Context.Options.Steps, Context.Options.LearningRate, 0, _method.Power);

    /// <inheritdoc/>
    public override void BeforeStep(TrainingStep step) =>
        step.DecayMultiplier = _method.WeightDecay == 0 ? 1 : Soma.AnnealedDecay(step.Index, Context.Options.Steps, _method.WeightDecay, _method.FinalWeightDecay) / _method.WeightDecay;
}
