using Espalier.Catalogue;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Sparsity.NormalFloats;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

/// <summary>How the low-rank part of <see cref="LqLora"/> comes about.</summary>
public enum LowRankStart
{
    /// <summary>By turns with the quantisation: LQ-LoRA.</summary>
    Alternating,

    /// <summary>The weight is quantised first and the low-rank part takes what that left: LoftQ with one turn.</summary>
    QuantiseFirst,

    /// <summary>The weight is quantised and the low-rank part starts as a LoRA, at zero: QLoRA.</summary>
    Zero,
}

/// <summary>
/// LQ-LoRA (Guo, Greengard, Xing, Kim, ICLR 2024): every weight becomes a quantised part and a low-rank part that carries what quantisation
/// loses; only the low-rank part is trained. An integer program gives each matrix its format under a budget of bits.
/// </summary>
[Method("lqlora", "LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for Efficient Language Model Finetuning", Family = "Quantization", Source = "arXiv 2311.12023, ICLR 2024",
    Summary = "Splits weights into NormalFloat of 2 to 8 bits and a trained low-rank part, under a budget of bits a weight: fine-tunes and ships a model in a fraction of its memory.",
    Fits = "adaptation of language models and vision nets; any optimiser; written as a model at its real size, or merged dense; its budget program and its NormalFloat serve others")]
public sealed partial record LqLora : WeightAdaptation
{
    private const string Slug = "lqlora";

    /// <summary>r, the rank of the low-rank part. Default 64; a matrix with smaller sides is refused.</summary>
    public int Rank { get; init => field = OptionCheck.Checked(value, value >= 1, Slug, "rank", "at least 1"); } = 64;

    /// <summary>alpha; the low-rank part is s·B·A with s = alpha/r. Default 16.</summary>
    public double Alpha { get; init => field = OptionCheck.Checked(value, value > 0 && double.IsFinite(value), Slug, "alpha", "a positive number"); } = 16;

    /// <summary>Bits a weight that all matrices together may take, low-rank parts apart; each matrix then gets a format of the grid. Null (default) gives all the format of <see cref="Bits"/> and the others.</summary>
    public double? Budget { get; init => field = OptionCheck.Checked(value, value is null or (> 0 and <= 16), Slug, "budget", "a number of bits a weight, for example 2.75"); }

    /// <summary>b, without a budget. Default 4.</summary>
    public int Bits { get; init => field = OptionCheck.Checked(value, value is >= 2 and <= 8, Slug, "number of bits", "2 to 8"); } = 4;

    /// <summary>b0, bits of a block's scale, without a budget. Default 8.</summary>
    public int ScaleBits { get; init => field = OptionCheck.Checked(value, value is >= 1 and <= 8, Slug, "number of bits of a scale", "1 to 8"); } = 8;

    /// <summary>The type of scales of scales: fp32, fp16 or bf16 (default).</summary>
    public string SuperType { get; init => field = OptionCheck.Checked(value, value is "fp32" or "fp16" or "bf16", Slug, "type of a scale of scales", "fp32, fp16 or bf16"); } = "bf16";

    /// <summary>B0, without a budget. Default 64.</summary>
    public int Block { get; init => field = OptionCheck.Checked(value, value >= 1, Slug, "block", "at least 1"); } = 64;

    /// <summary>B1, without a budget. Default 256.</summary>
    public int SuperBlock { get; init => field = OptionCheck.Checked(value, value >= 1, Slug, "number of blocks that share a scale", "at least 1"); } = 256;

    /// <summary>The b of the grid that a budget chooses from. Default 2, 3, 4 and 8.</summary>
    public IReadOnlyList<int> GridBits { get; init => field = OptionCheck.Checked(value, value.Count > 0 && value.All(b => b is >= 2 and <= 8), Slug, "grid of bits", "numbers from 2 to 8"); } = [2, 3, 4, 8];

    /// <summary>The b0 of the grid. Default 8.</summary>
    public IReadOnlyList<int> GridScaleBits { get; init => field = OptionCheck.Checked(value, value.Count > 0 && value.All(b => b is >= 1 and <= 8), Slug, "grid of bits of a scale", "numbers from 1 to 8"); } = [8];

    /// <summary>The B0 of the grid. Default 16, 32 and 64.</summary>
    public IReadOnlyList<int> GridBlocks { get; init => field = OptionCheck.Checked(value, value.Count > 0 && value.All(b => b >= 1), Slug, "grid of blocks", "numbers from 1"); } = [16, 32, 64];

    /// <summary>The B1 of the grid. Default 64.</summary>
    public IReadOnlyList<int> GridSuperBlocks { get; init => field = OptionCheck.Checked(value, value.Count > 0 && value.All(b => b >= 1), Slug, "grid of blocks that share a scale", "numbers from 1"); } = [64];

    /// <summary>A format for each target in the net's order, as "nf3 u8 bf16 16x64"; wins over a budget. Default null.</summary>
    public IReadOnlyList<string>? Formats { get; init; }

    /// <summary>T, the most turns of a decomposition; it ends where the error rises. Default 100.</summary>
    public int Iterations { get; init => field = OptionCheck.Checked(value, value >= 1, Slug, "number of iterations", "at least 1"); } = 100;

    /// <summary>How the low-rank part comes about. Default alternating.</summary>
    public LowRankStart Start { get; init; }

    /// <summary>Samples (windows of text, images) whose squared gradients make the Fisher matrix that weights the error; 0 (default) weights nothing.</summary>
    public int FisherSamples { get; init => field = OptionCheck.Checked(value, value >= 0, Slug, "number of Fisher samples", "0, or 32 and more"); }

    /// <summary>Which sides the Fisher matrix weights in the low-rank part. Default two-sided.</summary>
    public FisherSides Sides { get; init; }

    /// <summary>The format of all matrices, without a budget.</summary>
    public NfFormat Format => new() { Bits = Bits, ScaleBits = ScaleBits, SuperType = NfFormat.TypeOf(SuperType), Block = Block, SuperBlock = SuperBlock };

    /// <summary>The formats that a budget chooses from.</summary>
    public IReadOnlyList<NfFormat> Grid =>
    [
        .. from bits in GridBits
           from scaleBits in GridScaleBits
           from block in GridBlocks
           from superBlock in GridSuperBlocks
           select new NfFormat { Bits = bits, ScaleBits = scaleBits, SuperType = NfFormat.TypeOf(SuperType), Block = block, SuperBlock = superBlock },
    ];

    /// <summary>The empirical Fisher matrix of each weight: squared gradients of single samples, summed, float32 [out, in], in the caller's scope.</summary>
    /// <param name="context">The net with its samples.</param>
    /// <param name="weights">The weights.</param>
    /// <param name="samples">How many samples.</param>
    public static IReadOnlyDictionary<string, Tensor> Fisher(AdaptationContext context, IReadOnlyList<NetWeight> weights, int samples)
    {
        var sums = weights.ToDictionary(w => w.Name, w => zeros([w.Rows, w.Columns]), StringComparer.Ordinal);
        context.Progress.Say($"Summing squared gradients of {samples} samples.");
        context.EachGradient(weights, samples, (weight, gradient) => sums[weight.Name].addcmul_(gradient, gradient, 1), single: true);
        return sums;
    }

    /// <inheritdoc/>
    protected override void CheckWeight(NetWeight weight) => LowRankAdapter.CheckRank(Rank, weight.Rows, weight.Columns, weight.Name);

    /// <inheritdoc/>
    protected internal override IReadOnlyList<ILinearAdapter> Make(AdaptationContext context, IReadOnlyList<NetWeight> targets)
    {
        using var scope = NewDisposeScope();
        IReadOnlyDictionary<string, Tensor>? fisher = FisherSamples > 0 ? Fisher(context, targets, FisherSamples) : null;
        IReadOnlyList<NfFormat> formats = Formatted(targets, fisher, context.Progress);
        double scaling = Alpha / Rank, root = Math.Sqrt(scaling);
        var adapters = new List<ILinearAdapter>();
        using IProgressTask task = context.Progress.Begin("decomposing weights", targets.Count, "matrix");
        foreach ((NetWeight target, NfFormat format) in targets.Zip(formats))
        {
            using var inner = NewDisposeScope();
            Tensor matrix = target.Matrix();
            using Decomposition made = Decompose(matrix, fisher?[target.Name], format);
            Tensor a = Start is LowRankStart.Zero ? LowRankAdapter.RandomA(matrix, Rank, context.Seed, target.Name) : made.L2 / root;
            Tensor b = Start is LowRankStart.Zero ? zeros([target.Rows, Rank], ScalarType.Float32) : made.L1 / root;
            adapters.Add(new LqLoraAdapter(NfMatrix.Of(made.Q), a.to(matrix.device), b.to(matrix.device), scaling));
            task.Advance();
        }

        return adapters;
    }

    /// <inheritdoc/>
    protected internal override ILinearAdapter Restore(AdaptationContext context, NetWeight target, IReadOnlyDictionary<string, Tensor> stored, IReadOnlyDictionary<string, string> notes)
    {
        string[] parts = ["lora_A", "lora_B", "nf_codes", "nf_scales", "nf_supers", "nf_offset"];
        string? missing = parts.FirstOrDefault(p => !stored.ContainsKey(p));
        EspalierException.Require(missing is null && notes.ContainsKey($"nf:{target.Module}"), $"The saved lqlora adapter has no {missing ?? "format"} for {target.Module}; it is damaged.");
        using var scope = NewDisposeScope();
        Tensor a = stored["lora_A"], b = stored["lora_B"];
        EspalierException.Require(a.shape[1] == target.Columns && b.shape[0] == target.Rows, $"The saved adapter of {target.Module} is for a weight [{b.shape[0]}, {a.shape[1]}], this net's is [{target.Rows}, {target.Columns}].");
        var quantised = new NfMatrix(
            NfFormat.Parse(notes[$"nf:{target.Module}"]), checked((int)target.Rows), checked((int)target.Columns), [.. stored["nf_codes"].data<byte>()], [.. stored["nf_scales"].data<byte>()],
            [.. stored["nf_supers"].to(ScalarType.Float32).data<float>()], stored["nf_offset"].item<float>());
        return new LqLoraAdapter(quantised, a, b, Alpha / Rank);
    }

    /// <inheritdoc/>
    protected internal override IReadOnlyDictionary<string, string> Notes(WeightAdaptationRun run) => run.Targets.Zip(run.Adapters).ToDictionary(
        t => $"nf:{t.First.Module}", t => ((LqLoraAdapter)(t.Second is MaskedAdapter masked ? masked.Inner : t.Second)).Quantised.Format.ToString(), StringComparer.Ordinal);

    /// <inheritdoc/>
    protected override WeightAdaptationRun NewRun(AdaptationContext context, IReadOnlyList<NetWeight> targets, IReadOnlyList<ILinearAdapter> adapters, IReadOnlyList<(string Name, TorchSharp.Modules.Parameter Value)> whole) =>
        new LqLoraRun(this, context, targets, adapters, whole);

    /// <summary>A weight's two parts as the options say.</summary>
    internal Decomposition Decompose(Tensor matrix, Tensor? fisher, NfFormat format) => Start switch
    {
        LowRankStart.Alternating => LowRankPlusQuantised.Decompose(matrix, fisher, Rank, format, Iterations, Sides),
        LowRankStart.QuantiseFirst => LowRankPlusQuantised.QuantiseFirst(matrix, fisher, Rank, format, Sides),
        _ => LowRankPlusQuantised.QuantiseFirst(matrix, fisher, 0, format),
    };

    /// <summary>The cost table of the integer program: the squared error of every weight in every format of the grid.</summary>
    /// <param name="targets">The weights.</param>
    /// <param name="fisher">Their Fisher matrices by name; null for none.</param>
    /// <param name="progress">Where progress is told.</param>
    public IReadOnlyList<IReadOnlyList<double>> Errors(IReadOnlyList<NetWeight> targets, IReadOnlyDictionary<string, Tensor>? fisher, IProgressSink progress)
    {
        IReadOnlyList<NfFormat> grid = Grid;
        var errors = new List<double[]>();
        using IProgressTask task = progress.Begin("errors of formats", targets.Count, "matrix");
        foreach (NetWeight target in targets)
        {
            using var scope = NewDisposeScope();
            Tensor matrix = target.Matrix();
            errors.Add([.. grid.Select(format =>
            {
                using Decomposition made = Decompose(matrix, fisher?[target.Name], format);
                return made.Error * made.Error;
            })]);
            task.Advance();
        }

        return errors;
    }

    /// <summary>The integer program: a format of the grid for each weight, with the least error within a budget.</summary>
    /// <param name="targets">The weights.</param>
    /// <param name="errors">As <see cref="Errors"/> gives them.</param>
    /// <param name="bits">Bits a weight, over all weights together.</param>
    /// <exception cref="EspalierException">When no choice keeps the budget.</exception>
    public (IReadOnlyList<NfFormat> Formats, BudgetChoice Choice) Spend(IReadOnlyList<NetWeight> targets, IReadOnlyList<IReadOnlyList<double>> errors, double bits)
    {
        IReadOnlyList<NfFormat> grid = Grid;
        long weights = targets.Sum(t => t.Rows * t.Columns);
        double[][] sizes = [.. targets.Select(t => grid.Select(f => f.StorageBits(t.Rows * t.Columns)).ToArray())];
        double smallest = sizes.Sum(s => s.Min()) / weights;
        EspalierException.Require(smallest <= bits * (1 + 1e-12), FormattableString.Invariant($"A budget of {bits} bits a weight is below the smallest that this grid allows, {smallest:0.###}; raise it, or give the grid fewer bits or larger blocks."));
        BudgetChoice choice = BudgetProgram.Solve(errors, sizes, bits * weights);
        return ([.. choice.Choices.Select(c => grid[c])], choice);
    }

    private IReadOnlyList<NfFormat> Formatted(IReadOnlyList<NetWeight> targets, IReadOnlyDictionary<string, Tensor>? fisher, IProgressSink progress)
    {
        if (Formats is not null)
        {
            EspalierException.Require(Formats.Count == targets.Count, $"lqlora was given {Formats.Count} formats for {targets.Count} weights; give one for each target, in the net's order.");
            return [.. Formats.Select(NfFormat.Parse)];
        }

        if (Budget is not { } bits)
        {
            return [.. targets.Select(_ => Format)];
        }

        (IReadOnlyList<NfFormat> formats, BudgetChoice choice) = Spend(targets, Errors(targets, fisher, progress), bits);
        string proof = choice.Gap == 0 ? "the best there is" : FormattableString.Invariant($"at most {100 * choice.Gap:G2} % above the best there is");
        progress.Say(FormattableString.Invariant($"{targets.Count} matrices take {choice.Weight / targets.Sum(t => t.Rows * t.Columns):0.###} of {bits} bits a weight; their error is {proof}."));
        return formats;
    }
}
