using Espalier.Catalogue;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>What A of a LoRA starts as; B starts at 0, so that the net starts as it was.</summary>
public enum LoraInit
{
    /// <summary>Uniform in ±1/√in: Kaiming's with a = √5, as in the official code.</summary>
    Kaiming,

    /// <summary>Normal with a deviation of 1/r.</summary>
    Gaussian,
}

/// <summary>LoRA: y = x·Wᵀ + (alpha/r)·x·Aᵀ·Bᵀ + b with W frozen. The baseline that every other adapter is measured against.</summary>
/// <remarks>A [r, in], B [out, r]. On a pruned base the low-rank part is masked (<see cref="MaskLoraAdapter"/>), so that merging keeps zeros. Files are those of Python PEFT.</remarks>
[Method("lora", "LoRA: Low-Rank Adaptation of Large Language Models", Family = "Adaptation", Source = "Hu et al., ICLR 2022, arXiv 2106.09685",
    Summary = "Two small factors beside each frozen weight are trained and later folded in. The common baseline of adapters; reads and writes Python PEFT's files.",
    Fits = "adaptation of language models and vision nets; any optimiser; merges exactly, on pruned weights masked")]
public sealed partial record Lora : WeightAdaptation, IPeftMethod
{
    /// <summary>r, the width of the factors. Default 8.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Rank
    {
        get;
        init => field = OptionCheck.Checked(value, value >= 1, "lora", "rank", "at least 1");
    } = 8;

    /// <summary>alpha, the strength: what is added is multiplied by alpha/r. Default 16.</summary>
    /// <exception cref="EspalierException">Unless positive and finite.</exception>
    public double Alpha
    {
        get;
        init => field = OptionCheck.Checked(value, value > 0 && double.IsFinite(value), "lora", "alpha", "a positive number, usually once or twice the rank");
    } = 16;

    /// <summary>Multiplies by alpha/√r in place of alpha/r (Kalajdzievski 2023), so that high ranks learn as fast. Default false.</summary>
    public bool RankStabilised { get; init; }

    /// <summary>The share of inputs of A that are dropped in training; linear maps of dense nets only. Default 0.</summary>
    /// <exception cref="EspalierException">Outside [0, 1).</exception>
    public double Dropout
    {
        get;
        init => field = OptionCheck.Checked(value, value is >= 0 and < 1, "lora", "dropout", "from 0 up to but not including 1");
    }

    /// <summary>What A starts as. Default Kaiming.</summary>
    public LoraInit Init { get; init; }

    /// <summary>LoRA+: B learns at so many times the rate of A (Hayou et al. 2024 use 16). Default 1.</summary>
    /// <exception cref="EspalierException">Unless positive.</exception>
    public double RateOfB
    {
        get;
        init => field = OptionCheck.Checked(value, value > 0 && double.IsFinite(value), "lora", "rate of B", "positive, for example 16");
    } = 1;

    /// <summary>What <see cref="LowRankAdapter"/> is given, which divides by r.</summary>
    private double Strength => RankStabilised ? Alpha * Math.Sqrt(Rank) : Alpha;

    /// <inheritdoc/>
    public override IAdaptationRun Begin(AdaptationContext context) => context.Saved is null ? base.Begin(context) : PeftFolder.Open(context, this);

    /// <inheritdoc/>
    protected internal override IReadOnlyList<ILinearAdapter> Make(AdaptationContext context, IReadOnlyList<NetWeight> targets)
    {
        using var scope = NewDisposeScope();
        return [.. targets.Select(t => Make(t, context))];
    }

    /// <inheritdoc/>
    protected internal override ParameterGroup Group(string name) => name.EndsWith(".lora_B", StringComparison.Ordinal) ? new ParameterGroup(RateOfB) : new ParameterGroup();

    /// <inheritdoc/>
    protected override void CheckWeight(NetWeight weight)
    {
        LowRankAdapter.CheckRank(Rank, weight.Rows, weight.Columns, weight.Name);
        EspalierException.Require(Dropout == 0 || !weight.IsConvolution, $"lora drops inputs of linear maps only, and {weight.Module} is a convolution; leave dropout at 0.");
    }

    /// <inheritdoc/>
    protected override WeightAdaptationRun NewRun(AdaptationContext context, IReadOnlyList<NetWeight> targets, IReadOnlyList<ILinearAdapter> adapters, IReadOnlyList<(string Name, Parameter Value)> whole) =>
        new LoraRun(this, context, targets, adapters, whole);

    private LowRankAdapter Make(NetWeight target, AdaptationContext context)
    {
        using var scope = NewDisposeScope();
        Tensor matrix = target.Matrix();
        Tensor a = Start(matrix, context.Seed, target.Name), b = zeros([target.Rows, Rank], ScalarType.Float32, matrix.device);
        Tensor? keep = context.Keep(target);
        EspalierException.Require(keep is null || Dropout == 0, $"{target.Name} is pruned, where lora works on the masked product and has no inputs to drop; leave dropout at 0.");
        return keep is null ? new LoraAdapter(matrix, a, b, Strength, LowRankAdapter.Dense(matrix), target.Name) { Dropout = Dropout } : new MaskLoraAdapter(matrix, a, b, Strength, keep, target.Name);
    }

    private Tensor Start(Tensor matrix, Seed seed, string name)
    {
        if (Init is LoraInit.Kaiming)
        {
            return LowRankAdapter.RandomA(matrix, Rank, seed, name);
        }

        using Generator generator = seed.Generator($"adapter {name}");
        return normal(0, 1.0 / Rank, [Rank, matrix.shape[1]], ScalarType.Float32, generator: generator).to(matrix.device);
    }
}
