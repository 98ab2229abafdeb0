using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class PgfnmTests
{
    [Fact]
    public void The_reference_cases_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "pgfnm")).Lines).ShouldBe("pgfnm: 19/19");

    [Theory]
    [InlineData(1, 4, NmLayout.Row)]
    [InlineData(2, 4, NmLayout.Col)]
    [InlineData(3, 8, NmLayout.Conv)]
    public void Every_group_keeps_n_of_m_and_the_largest(int n, int m, NmLayout layout)
    {
        using var scope = NewDisposeScope();
        using Generator generator = new Seed(1).Generator("weights");
        Tensor w = layout is NmLayout.Conv ? randn([3, 8, 2, 2], generator: generator) : randn([8, 16], generator: generator);
        Tensor keep = Pgfnm.Mask(w, n, m, layout);
        Tensor Groups(Tensor t) => (layout switch { NmLayout.Col => t.t(), NmLayout.Conv => t.permute(0, 2, 3, 1), _ => t }).reshape(-1, m);
        Groups(keep).to(int64).sum(1, false, null).eq(n).all().item<bool>().ShouldBeTrue();
        Tensor sizes = Groups(w.abs()), kept = Groups(keep);
        Tensor weakest = sizes.masked_fill(kept.logical_not(), 1e9).amin(1), strongest = sizes.masked_fill(kept, -1).amax(1);
        weakest.ge(strongest).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Fading_goes_from_dense_to_the_mask_and_both_flows_see_the_same_weight()
    {
        using var scope = NewDisposeScope();
        Tensor w = tensor([4f, 3, 2, 1]).requires_grad_(true), keep = Pgfnm.Mask(w, 2, 4, NmLayout.Row);
        foreach (double beta in (double[])[0, 0.25, 1])
        {
            Tensor ste = Pgfnm.Effective(w, keep, beta, GradientFlow.Ste), chain = Pgfnm.Effective(w, keep, beta, GradientFlow.Chain);
            float[] expected = [4, 3, (float)(2 * beta), (float)beta];
            ste.data<float>().ToArray().ShouldBe(expected);
            chain.data<float>().ToArray().ShouldBe(expected);
            autograd.grad([ste.sum()], [w])[0].data<float>().ToArray().ShouldBe([1, 1, 1, 1]);
            autograd.grad([chain.sum()], [w])[0].data<float>().ToArray().ShouldBe([1, 1, (float)beta, (float)beta]);
        }

        PgfnmSchedule.Beta(NmDecay.Linear, 0.01, 25).ShouldBe(0.75);
        PgfnmSchedule.Beta(NmDecay.Linear, 0.01, 500).ShouldBe(0);
        PgfnmSchedule.Beta(NmDecay.Exp, 0.01, -3).ShouldBe(1);
        PgfnmSchedule.Beta(NmDecay.SrSte, 0.01, 3).ShouldBe(0);
    }

    [Fact]
    public void Ladders_end_on_the_pattern()
    {
        new PgfnmSchedule(NmDecay.Sparsify, 1, 8, 100, 10, 10).Frames().ShouldBe([new(10, 7, 8), new(30, 4, 8), new(50, 2, 8), new(70, 1, 8)]);
        new PgfnmSchedule(NmDecay.Fine, 1, 8, 100, 10, 20).Frames()[^1].ShouldBe(new NmFrame(62, 1, 8));
        new PgfnmSchedule(NmDecay.Densify, 2, 4, 40, 0, 4).Frames()[0].ShouldBe(new NmFrame(0, 2, 32));
        Should.Throw<EspalierException>(() => new PgfnmSchedule(NmDecay.Sparsify, 2, 7, 10, 0, 0).Frames()).Message.ShouldContain("power of two");
    }

    [Fact]
    public void Bad_options_get_a_sentence()
    {
        using VisionModel net = TinyVision.Make(TinyVision.Vit);
        IReadOnlyList<NetWeight> weights = NetWeight.Of(net);
        Sentence(() => new Pgfnm { N = 0 }).ShouldContain("at least 1");
        Sentence(() => new Pgfnm { N = 4, M = 4 }.Check(weights, 100)).ShouldContain("removes nothing");
        Sentence(() => new Pgfnm { Dense = 0.6, FineTune = 0.4 }.Check(weights, 100)).ShouldContain("no steps between");
        Sentence(() => new Pgfnm { Coefficient = 1e-6, FineTune = 0 }.Check(weights, 100)).ShouldContain("fine_tune");
        Sentence(() => new Pgfnm { N = 1, M = 8 }.Check(weights, 100)).ShouldContain("blocks.0.mlp.fc1.weight [10, 12] does not divide into groups of 8");
        Sentence(() => new Pgfnm { Layers = ["nothing"] }.Check(weights, 100)).ShouldContain("nothing");
    }

    private static string Sentence(Action act) => Should.Throw<EspalierException>(act).Message;
}
