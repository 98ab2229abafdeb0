using CsCheck;
using Espalier.Reporting;

namespace Espalier.Tests.Reporting;

public sealed class AxisTests
{
    [Fact]
    public void Ticks_are_round_and_cover_the_values()
    {
        Axis.Linear(0, 113.8, 0, 100).Ticks.ShouldBe([0, 25, 50, 75, 100, 125]);
        Axis.Linear(4.31, 4.79, 0, 100, 5).Ticks.Select(t => Math.Round(t, 6)).ShouldBe([4.3, 4.4, 4.5, 4.6, 4.7, 4.8]);
    }

    [Fact]
    public void Any_range_gives_a_few_finite_ticks_and_positions_within_the_axis() =>
        Gen.Select(Gen.Double[-1e12, 1e12], Gen.Double[0, 1e12], Gen.Double[0, 1]).Sample((low, width, share) =>
        {
            Axis axis = Axis.Linear(low, low + width, 10, 200);
            axis.Ticks.Count.ShouldBeInRange(1, 14);
            axis.Ticks.ShouldAllBe(t => double.IsFinite(t));
            axis.At(low + (share * width)).ShouldBeInRange(10, 200);
        });

    [Fact]
    public void A_logarithmic_axis_gives_each_decade_the_same_room()
    {
        Axis axis = Axis.Logarithmic(10, 1000, 0, 100);
        axis.At(100).ShouldBe(50, 1e-9);
        axis.Ticks.Select(t => Math.Round(t, 9)).ShouldBe([10, 20, 50, 100, 200, 500, 1000]);
    }

    [Fact]
    public void Any_positive_range_fits_a_logarithmic_axis() =>
        Gen.Select(Gen.Double[-12, 12], Gen.Double[0, 12]).Sample((low, decades) =>
        {
            Axis axis = Axis.Logarithmic(Math.Pow(10, low), Math.Pow(10, low + decades), 0, 100);
            axis.Ticks.Count.ShouldBeInRange(1, 8);
            axis.At(Math.Pow(10, low)).ShouldBeInRange(0, 100);
        });

    [Theory]
    [InlineData(0, "0")]
    [InlineData(0.5, "0.5")]
    [InlineData(113.84, "113.8")]
    [InlineData(1500, "1500")]
    [InlineData(25_000, "25 k")]
    [InlineData(2_600_000, "2.6 M")]
    [InlineData(0.00002, "2e-5")]
    public void Labels_have_as_many_digits_as_help(double value, string label) => Axis.Label(value).ShouldBe(label);

    [Fact]
    public void Smoothing_keeps_a_constant_and_does_not_start_at_zero() =>
        LineChart.Smooth([.. Enumerable.Range(0, 50).Select(i => ((double)i, 3.0))], 0.9).ShouldAllBe(p => Math.Abs(p.Y - 3) < 1e-12);
}
