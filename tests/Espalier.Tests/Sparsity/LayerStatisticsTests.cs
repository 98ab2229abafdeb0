using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Tests.Sparsity;

public sealed class LayerStatisticsTests
{
    [Fact]
    public void Figures_are_those_of_the_definitions_and_do_not_depend_on_batching()
    {
        using var scope = NewDisposeScope();
        using var generator = new Seed(3).Generator("x");
        Tensor x = randn([6, 5, 4], generator: generator);
        foreach (int batch in new[] { 1, 3 })
        {
            using LayerStatistics statistics = Collect(x, batch);
            LayerContext figures = statistics.Context("layer", zeros(2, 4));
            Close(figures.InputNorms!, x.pow(2).sum([0, 1]) / 6);
            Tensor rows = x.reshape(-1, 4);
            Close(figures.Hessian!, rows.t().mm(rows) * (2.0 / 6));
            Close(figures.InputMean!, rows.mean([0]));
            Close(figures.InputVariance!, rows.var(0, unbiased: false));
            Close(figures.WithinVariance!, x.var(1, unbiased: false).mean([0]));
            figures.TokensPerSequence.ShouldBe(5);
        }

        static LayerStatistics Collect(Tensor x, int batch)
        {
            var statistics = new LayerStatistics(CalibrationNeeds.InputNorms | CalibrationNeeds.Hessian | CalibrationNeeds.InputMoments, 4, CPU);
            for (int i = 0; i < 6; i += batch)
            {
                statistics.Observe(x.narrow(0, i, batch));
            }

            return statistics;
        }

        static void Close(Tensor a, Tensor b) => (a - b).abs().max().item<float>().ShouldBeLessThan(1e-4f);
    }

    [Fact]
    public void An_activation_that_is_not_finite_is_refused()
    {
        using var scope = NewDisposeScope();
        using var statistics = new LayerStatistics(CalibrationNeeds.InputNorms, 2, CPU);
        Should.Throw<EspalierException>(() => statistics.Observe(tensor(new[] { 1f, float.PositiveInfinity }).reshape(1, 1, 2)));
    }
}
