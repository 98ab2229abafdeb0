using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>
/// One linear map with inputs whose law is known, on which a criterion or repair can be proven: the figures are exact,
/// and what must come out follows from how the inputs were made.
/// </summary>
public sealed class SyntheticLayer : IDisposable
{
    private SyntheticLayer(Tensor weight, Tensor inputs)
    {
        (Weight, Inputs) = (weight.DetachFromDisposeScope(), inputs.DetachFromDisposeScope());
    }

    /// <summary>W [out, in], float32.</summary>
    public Tensor Weight { get; }

    /// <summary>X [sequences, tokens, in], float32.</summary>
    public Tensor Inputs { get; }

    /// <summary>
    /// Correlated inputs: W = 0.1·N(0, 1) [48, 64]; X = 0.4·A·B + 0.25·E + mean·mu with A [2000, 12], B [12, 64] and E, mu of N(0, 1),
    /// as 20 sequences of 100 tokens. Twelve directions carry most of the inputs, so that kept weights can speak for pruned ones.
    /// </summary>
    /// <param name="seed">Fixes all of it.</param>
    /// <param name="mean">How far the inputs' means lie from 0.</param>
    public static SyntheticLayer Correlated(Seed seed, double mean)
    {
        using var scope = NewDisposeScope();
        using Generator generator = seed.Generator("synthetic layer");
        Tensor weight = 0.1 * randn([48, 64], generator: generator);
        Tensor common = randn([2000, 12], generator: generator).mm(randn([12, 64], generator: generator));
        Tensor own = randn([2000, 64], generator: generator), mu = randn([64], generator: generator);
        return new SyntheticLayer(weight, ((0.4 * common) + (0.25 * own) + (mean * mu)).reshape(20, 100, 64));
    }

    /// <summary>Independent inputs of which a few are large: W of N(0, 1) [64, 100]; X of N(0, 1), 20 sequences of 100 tokens, <paramref name="outliers"/> inputs scaled.</summary>
    /// <param name="seed">Fixes all of it.</param>
    /// <param name="outliers">How many of the 100 inputs are large.</param>
    /// <param name="scale">How much larger.</param>
    public static SyntheticLayer Outliers(Seed seed, int outliers, double scale)
    {
        using var scope = NewDisposeScope();
        using Generator generator = seed.Generator("synthetic layer");
        Tensor weight = randn([64, 100], generator: generator);
        Tensor inputs = randn([20, 100, 100], generator: generator);
        using Tensor large = tensor([.. Shuffle(seed).Take(outliers)], ScalarType.Int64);
        inputs.index_copy_(2, large, inputs.index_select(2, large) * scale);
        return new SyntheticLayer(weight, inputs);

        static long[] Shuffle(Seed seed)
        {
            long[] columns = [.. Enumerable.Range(0, 100)];
            seed.Random("large inputs").Shuffle(columns);
            return columns;
        }
    }

    /// <summary>
    /// Inputs around means of their own: W = 0.1·N(0, 1) [48, 64]; x_j = mu_j + sigma_j·N(0, 1) with mu of 3·N(0, 1) and sigma
    /// log-uniform in [0.1, 2], as 40 sequences of 50 tokens. An input of small sigma is little more than its mean.
    /// </summary>
    /// <param name="seed">Fixes all of it.</param>
    public static SyntheticLayer Offset(Seed seed)
    {
        using var scope = NewDisposeScope();
        using Generator generator = seed.Generator("synthetic layer");
        Tensor weight = 0.1 * randn([48, 64], generator: generator);
        Tensor mu = 3 * randn([64], generator: generator);
        Tensor sigma = 0.1 * (rand([64], generator: generator) * Math.Log(20)).exp();
        return new SyntheticLayer(weight, mu + (sigma * randn([40, 50, 64], generator: generator)));
    }

    /// <summary>Gives the layer, with the figures of its inputs, to parts of a plan.</summary>
    /// <param name="needs">What they need to know.</param>
    /// <param name="use">Receives the layer; what it makes is disposed afterwards.</param>
    public void Use(CalibrationNeeds needs, Action<LayerContext> use)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using var statistics = new LayerStatistics(needs, Weight.shape[1], Weight.device);
        statistics.Observe(Inputs);
        use(statistics.Context("the synthetic layer", Weight));
    }

    /// <summary>The mean squared error of the output against the dense layer's, over all tokens and rows.</summary>
    /// <param name="weight">The changed weight [out, in].</param>
    /// <param name="bias">What is added to every output [out]; null adds nothing.</param>
    public double OutputError(Tensor weight, Tensor? bias = null)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        return nn.functional.linear(Inputs.reshape(-1, Weight.shape[1]), weight - Weight, bias).pow(2).mean().item<float>();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Weight.Dispose();
        Inputs.Dispose();
    }
}
