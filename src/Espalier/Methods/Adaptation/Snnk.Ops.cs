using Espalier.Catalogue;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

public sealed partial record Snnk
{
    [ParityOp("snnk.relu_features")]
    internal static IReadOnlyDictionary<string, Tensor> FeaturesOp(ParityCase c) =>
        new Dictionary<string, Tensor> { ["phi"] = RandomFeatures.Relu(c.Input("x"), c.Input("g"), c.Parameter("constant", 0.0)) };

    [ParityOp("snnk.relu_layer")]
    internal static IReadOnlyDictionary<string, Tensor> LayerOp(ParityCase c)
    {
        Tensor g = c.Input("g"), x = c.Input("x").clone().requires_grad_(), theta = RandomFeatures.Relu(c.Input("w0"), g);
        Tensor trained = theta.detach().clone().requires_grad_();
        Tensor y = nn.functional.linear(RandomFeatures.Relu(x, g), trained, c.Optional("bias"));
        y.backward([c.Input("grad_y")]);
        return new Dictionary<string, Tensor>
        {
            ["theta0"] = theta, ["y"] = y.detach(), ["grad_theta"] = trained.grad!, ["grad_x"] = x.grad!, ["arc_cosine_exact"] = RandomFeatures.ArcCosine(c.Input("x"), c.Input("w0")),
        };
    }

    [ParityOp("snnk.urf")]
    internal static IReadOnlyDictionary<string, Tensor> UniversalOp(ParityCase c)
    {
        UniversalFunction function = c.Parameter<string>("activation") == "cos" ? UniversalFunction.Cos : UniversalFunction.Sin;
        (Tensor x, Tensor w, Tensor bias, Tensor g, Tensor xi, double m) = (c.Input("x"), c.Input("w"), c.Input("bias"), c.Input("g"), c.Input("xi"), c.Parameter("M", 0.0));
        Tensor phi = RandomFeatures.Universal(x, g, xi, m), psi = RandomFeatures.UniversalWeights(function, w, bias, g, xi, m);
        Tensor inside = nn.functional.linear(x.to(ScalarType.Float64), w.to(ScalarType.Float64), bias.to(ScalarType.Float64));
        return new Dictionary<string, Tensor>
        {
            ["phi_x"] = phi, ["psi_w"] = psi, ["estimate"] = phi.mm(psi.t()).real, ["exact"] = function is UniversalFunction.Sin ? inside.sin() : inside.cos(),
        };
    }

    [ParityOp("snnk.orthogonal_rows")]
    internal static IReadOnlyDictionary<string, Tensor> OrthogonalOp(ParityCase c)
    {
        Tensor norms = c.Input("norms");
        return new Dictionary<string, Tensor> { ["g"] = RandomFeatures.OrthogonalRows(c.Input("gauss"), norms.narrow(0, 0, c.Parameter("m", norms.shape[0]))) };
    }

    [ParityOp("snnk.bundle_fit")]
    internal static IReadOnlyDictionary<string, Tensor> BundleOp(ParityCase c)
    {
        Tensor y = c.Input("y").to(ScalarType.Float64), phi = c.Numbered("g").Aggregate(c.Input("x").to(ScalarType.Float64), (x, g) => RandomFeatures.Relu(x, g.to(ScalarType.Float64)));
        Tensor theta = RandomFeatures.Fit(phi, y, c.Parameter<double>("ridge")), prediction = phi.mm(theta);
        return new Dictionary<string, Tensor> { ["phi"] = phi, ["theta"] = theta, ["prediction"] = prediction, ["mse"] = (prediction - y).square().mean() };
    }
}
