using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Pgfnm
{
    [ParityOp("pgfnm.nm_mask")]
    internal static IReadOnlyDictionary<string, Tensor> MaskOp(ParityCase c) => new Dictionary<string, Tensor>
    {
        ["mask"] = MaskOf(c).to(ScalarType.Float32),
    };

    [ParityOp("pgfnm.mask_decay")]
    internal static IReadOnlyDictionary<string, Tensor> DecayOp(ParityCase c)
    {
        NmDecay decay = Word<NmDecay>(c, "kind");
        double coefficient = c.Parameter<double>("coef");
        return new Dictionary<string, Tensor> { ["beta"] = tensor(c.Input("steps").data<long>().Select(t => PgfnmSchedule.Beta(decay, coefficient, t)).ToArray(), ScalarType.Float64) };
    }

    [ParityOp("pgfnm.mask_decay_apply")]
    internal static IReadOnlyDictionary<string, Tensor> ApplyOp(ParityCase c)
    {
        Tensor keep = MaskOf(c), weight = c.Input("weight"), given = c.Input("grad_output");
        double beta = BetaOf(c);
        return new Dictionary<string, Tensor>
        {
            ["weight_eff"] = Effective(weight, keep, beta, GradientFlow.Ste),
            ["grad_ste"] = Gradient(GradientFlow.Ste),
            ["grad_chain"] = Gradient(GradientFlow.Chain),
            ["mask"] = keep.to(ScalarType.Float32),
        };

        Tensor Gradient(GradientFlow flow)
        {
            Tensor leaf = weight.detach().clone().requires_grad_(true);
            Tensor reached = autograd.grad([(Effective(leaf, keep, beta, flow) * given).sum()], [leaf])[0];
            return flow is GradientFlow.Ste ? reached + Pull(c, weight, keep) : reached;
        }
    }

    [ParityOp("pgfnm.structure_schedule")]
    internal static IReadOnlyDictionary<string, Tensor> StructureOp(ParityCase c)
    {
        NmDecay decay = Word<NmDecay>(c, "type");
        EspalierException.Require(PgfnmSchedule.ChangesPattern(decay), $"The structure '{decay}' is none; use sparsify, fine or densify.");
        IReadOnlyList<NmFrame> frames = new PgfnmSchedule(
            decay, c.Parameter<int>("N"), c.Parameter<int>("M"), c.Parameter<double>("total_epochs"), c.Parameter<double>("dense_epochs"), c.Parameter<double>("fine_tune_epochs")).Frames();
        return new Dictionary<string, Tensor>
        {
            ["epoch"] = tensor(frames.Select(f => f.From).ToArray(), ScalarType.Int64),
            ["n"] = tensor(frames.Select(f => (long)f.N).ToArray(), ScalarType.Int64),
            ["m"] = tensor(frames.Select(f => (long)f.M).ToArray(), ScalarType.Int64),
        };
    }

    [ParityOp("pgfnm.linear_train_step")]
    internal static IReadOnlyDictionary<string, Tensor> TrainStepOp(ParityCase c)
    {
        Tensor keep = MaskOf(c), weight = c.Input("weight").to(ScalarType.Float64).detach().requires_grad_(true);
        GradientFlow flow = Word<GradientFlow>(c, "backward");
        Tensor guess = nn.functional.linear(c.Input("x").to(ScalarType.Float64), Effective(weight, keep, BetaOf(c), flow));
        Tensor loss = (guess - c.Input("y").to(ScalarType.Float64)).square().mean();
        Tensor gradient = autograd.grad([loss], [weight])[0];
        if (flow is GradientFlow.Ste)
        {
            gradient = gradient + Pull(c, weight.detach(), keep);
        }

        return new Dictionary<string, Tensor>
        {
            ["loss"] = loss.detach(),
            ["grad_weight"] = gradient,
            ["weight_new"] = weight.detach() - (c.Parameter<double>("lr") * gradient),
        };
    }

    private static Tensor MaskOf(ParityCase c) => Mask(c.Input("weight"), c.Parameter<int>("N"), c.Parameter<int>("M"), c.HasParameter("layout") ? Word<NmLayout>(c, "layout") : NmLayout.Row);

    private static double BetaOf(ParityCase c) => PgfnmSchedule.Beta(Word<NmDecay>(c, "kind"), c.Parameter("coef", 0.0), c.Parameter("step", 0L));

    // What SR-STE adds to the gradient; nothing elsewhere.
    private static Tensor Pull(ParityCase c, Tensor weight, Tensor keep) =>
        Word<NmDecay>(c, "kind") is NmDecay.SrSte ? c.Parameter("srste_lambda", 2e-4) * weight.masked_fill(keep, 0) : zeros_like(weight);

    private static T Word<T>(ParityCase c, string name)
        where T : struct, Enum
    {
        string word = c.Parameter<string>(name);
        EspalierException.Require(Enum.TryParse(word, ignoreCase: true, out T value), $"'{word}' is no {name}; use {string.Join(", ", Enum.GetNames<T>()).ToLowerInvariant()}.");
        return value;
    }
}
