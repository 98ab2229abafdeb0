using Espalier.Evaluation;
using Espalier.Runtime;

namespace Espalier.Tests.Evaluation;

public sealed class CorrelationTests
{
    [Fact]
    public void A_line_correlates_fully_and_ranks_see_only_the_order()
    {
        double[] x = [1, 2, 3, 4, 5];
        Correlation.Pearson(x, [.. x.Select(v => (3 * v) - 7)]).ShouldBe(1, 1e-12);
        Correlation.Pearson(x, [.. x.Select(v => -v)]).ShouldBe(-1, 1e-12);
        Correlation.Spearman(x, [.. x.Select(Math.Exp)]).ShouldBe(1, 1e-12);
        Correlation.Pearson(x, [.. x.Select(Math.Exp)]).ShouldBeLessThan(0.95);
    }

    [Fact]
    public void Equal_figures_share_the_mean_of_their_ranks() =>
        // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / √(4.5 · 5)
        Correlation.Spearman([1, 2, 2, 3], [10, 20, 30, 40]).ShouldBe(Math.Sqrt(0.9), 1e-12);

    [Fact]
    public void What_cannot_correlate_is_refused()
    {
        Should.Throw<EspalierException>(() => Correlation.Pearson([1, 2], [1, 2, 3])).Message.ShouldContain("same length");
        Should.Throw<EspalierException>(() => Correlation.Pearson([1], [1])).Message.ShouldContain("at least 2");
        Should.Throw<EspalierException>(() => Correlation.Spearman([1, 1], [1, 2])).Message.ShouldContain("correlates with nothing");
    }
}
