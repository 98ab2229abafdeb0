using Espalier.Catalogue;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// SNNK (Sehanobish, Choromanski, Zhao, Dubey, Likhosherstov, ICLR 2024): a layer f(W·x + b) becomes a dot product φ(x)·ψ(W, b) of random
/// features. Three uses: small adapters behind the maps of a frozen net, several dense layers of a vision net bundled into one trained matrix,
/// and that matrix in closed form.
/// </summary>
[Method("snnk", "Scalable Neural Network Kernels", Family = "Adaptation", Source = "arXiv 2310.13225, ICLR 2024",
    Summary = "Random features in place of dense layers: tiny adapters, dense layers bundled into one small trained matrix, and its closed form without back-propagation.",
    Fits = "adaptation of language models and vision nets (beside the model, pruned or quantised; not merged); `espalier train --method snnk` bundles the last maps of a vision net")]
public sealed partial record Snnk : WeightAdaptation, IVisionMethod
{
    private const string Slug = "snnk";

    /// <summary>φ. Default relu; sin and cos need inputs of moderate length (see <see cref="Length"/>); plain is the bottleneck adapter to compare with.</summary>
    public KernelFeatures Kind { get; init; }

    /// <summary>m, random features. Default 16.</summary>
    public int Features { get; init => field = OptionCheck.Checked(value, value >= 1, Slug, "number of features", "at least 1"); } = 16;

    /// <summary>The width between an adapter's two layers; 0 takes the map's own and a vector in place of the second layer. Default 8.</summary>
    public int Bottleneck { get; init => field = OptionCheck.Checked(value, value >= 0, Slug, "bottleneck", "0 or more"); } = 8;

    /// <summary>Whether rows of the projection are orthogonal within blocks: lower variance where m is as large as the input. Default true.</summary>
    public bool Orthogonal { get; init; } = true;

    /// <summary>Scales an adapter's inputs to this length, which keeps the exponentials of sin and cos bounded; 0 (default) leaves them.</summary>
    public double Length { get; init => field = OptionCheck.Checked(value, value >= 0 && double.IsFinite(value), Slug, "length of inputs", "0 or a positive number"); }

    /// <inheritdoc/>
    public override bool Folds => false;

    /// <inheritdoc/>
    protected override void CheckWeight(NetWeight weight) =>
        EspalierException.Require(!weight.IsConvolution, $"{weight.Module} is a convolution, and snnk follows linear maps; name others as targets.");

    /// <inheritdoc/>
    protected internal override IReadOnlyList<ILinearAdapter> Make(AdaptationContext context, IReadOnlyList<NetWeight> targets) => [.. targets.Select(t => Make(context, t))];

    private SnnkAdapter Make(AdaptationContext context, NetWeight target)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Device device = target.Value.device;
        long d = target.Rows, width = Bottleneck == 0 ? d : Bottleneck;
        using Generator generator = context.Seed.Generator($"adapter {target.Name}");
        Tensor w0 = (rand([width, d], ScalarType.Float32, generator: generator) * 2 - 1) / Math.Sqrt(d); // a linear layer's usual start
        bool plain = Kind is KernelFeatures.Plain;
        Tensor g = plain ? empty([0, d]) : RandomFeatures.Projection(Features, d, Orthogonal, context.Seed, target.Name);
        Tensor xi = Kind is KernelFeatures.Sin or KernelFeatures.Cos ? Draws(generator) : empty([0]);
        Tensor theta = Kind switch
        {
            KernelFeatures.Plain => w0,
            KernelFeatures.Relu => RandomFeatures.Relu(w0, g),
            _ => Real(RandomFeatures.UniversalWeights(Kind is KernelFeatures.Sin ? UniversalFunction.Sin : UniversalFunction.Cos, w0, zeros([width]), g, xi)),
        };
        Tensor up = Bottleneck == 0 ? zeros([d]) : zeros([d, width]);
        return new SnnkAdapter(Kind, g.to(device), xi.to(device), theta.to(device), up.to(device), Length == 0 ? null : Length, target.Module);
    }

    /// <summary>ξ = ±1/(2π) with equal chance.</summary>
    private Tensor Draws(Generator generator) => (rand([Features], ScalarType.Float32, generator: generator).ge(0.5).to(ScalarType.Float32) * 2 - 1) / (2 * Math.PI);

    private static Tensor Real(Tensor psi) => cat([psi.real, psi.imag], 1).to(ScalarType.Float32);
}
