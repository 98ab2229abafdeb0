using Espalier.Evaluation;
using Espalier.Runtime;

namespace Espalier.Tests.Evaluation;

public sealed class SignificanceTests
{
    /// <summary>t(0.975) with 2 degrees of freedom is 4.30265, with 4 it is 2.77645.</summary>
    [Fact]
    public void The_interval_is_students()
    {
        MeanEstimate three = Significance.Mean([1, 2, 3]);
        three.Mean.ShouldBe(2);
        three.StandardDeviation.ShouldBe(1);
        three.HalfWidth.ShouldBe(4.30265 / Math.Sqrt(3), 1e-4);
        Significance.Mean([1, 2, 3, 4, 5]).HalfWidth.ShouldBe(2.77645 * Math.Sqrt(2.5) / Math.Sqrt(5), 1e-4);
    }

    [Fact]
    public void Pairing_takes_out_what_seeds_share()
    {
        double[] first = [10.1, 20.1, 30.2], second = [10, 20, 30];
        MeanEstimate paired = Significance.PairedDifference(first, second, 0.9);
        paired.Mean.ShouldBe(0.4 / 3, 1e-9);
        paired.ExcludesZero.ShouldBeTrue();
        Significance.PairedDifference([1, 2, 1], [1, 1, 2]).ExcludesZero.ShouldBeFalse();
    }

    [Fact]
    public void One_seed_proves_nothing()
    {
        MeanEstimate one = Significance.Mean([5]);
        one.Mean.ShouldBe(5);
        one.StandardDeviation.ShouldBe(double.NaN);
        one.ExcludesZero.ShouldBeFalse();
    }

    [Fact]
    public void Values_that_give_no_mean_are_refused()
    {
        Should.Throw<EspalierException>(() => Significance.Mean([])).Message.ShouldContain("at least one seed");
        Should.Throw<EspalierException>(() => Significance.Mean([1, double.NaN])).Message.ShouldContain("seed number 1 is NaN");
        Should.Throw<EspalierException>(() => Significance.Mean([1], 95)).Message.ShouldContain("confidence of 95");
        Should.Throw<EspalierException>(() => Significance.PairedDifference([1, 2], [1])).Message.ShouldContain("2 and 1 seeds");
    }
}
