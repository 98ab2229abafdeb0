using Espalier.Catalogue;
using Espalier.Sparsity;
using Espalier.Sparsity.NormalFloats;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

public sealed partial record LqLora
{
    [ParityOp("lqlora.nf_scheme")]
    internal static IReadOnlyDictionary<string, Tensor> SchemeOp(ParityCase c)
    {
        NormalFloat scheme = NormalFloat.Of((int)c.Input("num_bits").to(ScalarType.Int64).item<long>());
        return new Dictionary<string, Tensor> { ["values"] = tensor(scheme.Levels.ToArray()), ["boundaries"] = tensor(scheme.Boundaries.ToArray()) };
    }

    [ParityOp("lqlora.quantize")]
    internal static IReadOnlyDictionary<string, Tensor> QuantiseOp(ParityCase c)
    {
        Tensor a = c.Input("a");
        NfFormat format = FormatOf(c);
        NfTensor quantised = format.Quantise(a);
        return new Dictionary<string, Tensor>
        {
            ["scales"] = quantised.Scales, ["scales_dq"] = quantised.DecodedScales(), ["codes"] = quantised.Codes.to(ScalarType.Int64),
            ["dequantized"] = quantised.Dequantise(), ["storage_bits"] = tensor(format.StorageBits(a.numel())),
        };
    }

    [ParityOp("lqlora.weighted_svd")]
    internal static IReadOnlyDictionary<string, Tensor> SvdOp(ParityCase c)
    {
        FisherSides sides = c.Parameter("heuristic", "two-sided") switch { "row" => FisherSides.Row, "col" => FisherSides.Col, "none" => FisherSides.None, _ => FisherSides.TwoSided };
        (Tensor l1, Tensor l2) = LowRankPlusQuantised.WeightedSvd(c.Input("a"), c.Optional("w"), c.Parameter<int>("num_ranks"), sides);
        return new Dictionary<string, Tensor> { ["product"] = l1.mm(l2) };
    }

    [ParityOp("lqlora.decompose")]
    internal static IReadOnlyDictionary<string, Tensor> DecomposeOp(ParityCase c)
    {
        (Tensor a, Tensor? fisher, int rank, NfFormat format) = (c.Input("a"), c.Optional("w"), c.Parameter<int>("num_ranks"), FormatOf(c));
        using Decomposition once = LowRankPlusQuantised.Decompose(a, fisher, rank, format, iterations: 1);
        using Decomposition final = LowRankPlusQuantised.Decompose(a, fisher, rank, format, c.Parameter("max_iterations", 100));
        using Decomposition plain = LowRankPlusQuantised.QuantiseFirst(a, fisher, 0, format);
        return new Dictionary<string, Tensor>
        {
            ["product_1"] = once.Product(), ["q_1"] = once.Q.Dequantise(), ["error_1"] = tensor(once.Error), ["error_final"] = tensor(final.Error), ["error_quantize_only"] = tensor(plain.Error),
        };
    }

    [ParityOp("lqlora.ilp")]
    internal static IReadOnlyDictionary<string, Tensor> ProgramOp(ParityCase c)
    {
        BudgetChoice choice = BudgetProgram.Solve(Rows(c.Input("costs")), Rows(c.Input("weights")), c.Parameter<double>("budget"));
        return new Dictionary<string, Tensor> { ["assignment"] = tensor(choice.Choices.Select(k => (long)k).ToArray()), ["cost"] = tensor(choice.Cost), ["bits"] = tensor(choice.Weight) };
    }

    [ParityOp("lqlora.empirical_fisher")]
    internal static IReadOnlyDictionary<string, Tensor> FisherOp(ParityCase c)
    {
        // One sample's ∂loss/∂W is (p − y)·xᵀ, so its square is a product of squares.
        Tensor w = c.Input("w").to(ScalarType.Float64), x = c.Input("x").to(ScalarType.Float64);
        Tensor wrong = nn.functional.softmax(x.mm(w.t()), 1) - nn.functional.one_hot(c.Input("label").to(ScalarType.Int64), w.shape[0]).to(ScalarType.Float64);
        return new Dictionary<string, Tensor> { ["fisher"] = wrong.square().t().mm(x.square()) };
    }

    private static double[][] Rows(Tensor table)
    {
        double[] all = table.to(ScalarType.Float64).contiguous().data<double>().ToArray();
        return [.. all.Chunk((int)table.shape[1])];
    }

    private static NfFormat FormatOf(ParityCase c) => new()
    {
        Bits = c.Parameter<int>("num_bits"), ScaleBits = c.Parameter<int>("num_bits_0"), SuperType = NfFormat.TypeOf(c.Parameter<string>("num_bits_1")),
        Block = c.Parameter<int>("block_size_0"), SuperBlock = c.Parameter<int>("block_size_1"),
    };
}
