using System.Globalization;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using CsCheck;
using Espalier.Evaluation;
using Espalier.Reporting;

namespace Espalier.Tests.Reporting;

public sealed class ScatterChartTests
{
    [Fact]
    public void The_front_is_a_line_through_its_members_which_are_marked()
    {
        XElement svg = Drawn(new ScatterChart
        {
            Title = "t", XLabel = "size", YLabel = "loss", Front = Goal.Lower,
            Points = [new("small", 1, 9), new("beaten", 2, 10), new("middle", 3, 5), new("large", 9, 4)],
        });
        var rings = Of(svg, "circle").Where(c => Class(c).StartsWith("ring", StringComparison.Ordinal)).ToArray();
        rings.Length.ShouldBe(3);
        string line = Of(svg, "polyline").ShouldHaveSingleItem().Attribute("points")!.Value;
        line.ShouldBe(string.Join(' ', rings.Select(r => $"{r.Attribute("cx")!.Value},{r.Attribute("cy")!.Value}")));
        Of(svg, "circle").Count(c => Class(c) == "dot shown stone").ShouldBe(1);
        svg.Attribute("aria-label")!.Value.ShouldEndWith("on the Pareto front: small, middle, large");
    }

    [Fact]
    public void Without_a_front_nothing_is_marked_and_a_reference_goes_across()
    {
        XElement svg = Drawn(new ScatterChart { Title = "t", Points = [new("a", 1, 2), new("b", 2, 1)], Reference = ("dense", 1) });
        Of(svg, "circle").ShouldAllBe(c => Class(c) == "dot shown leaf");
        Class(Of(svg, "polyline").ShouldHaveSingleItem()).ShouldStartWith("dashed");
        Of(svg, "text").ShouldContain(t => t.Value == "dense");
    }

    [Fact]
    public void Curves_are_dashed_lines_with_names_and_the_axes_hold_them()
    {
        XElement svg = Drawn(new ScatterChart { Title = "t", Logarithmic = true, LogarithmicX = true, Points = [new("a", 2, 3), new("nought", 0, 1)], Curves = [new("bound", [(1, 20), (2, 10), (4, 5)], Tone.Slate)] });
        XElement curve = Of(svg, "polyline").ShouldHaveSingleItem();
        Class(curve).ShouldBe("dashed slate");
        Of(svg, "circle").Count().ShouldBe(1, "zero has no place on a logarithmic axis");
        double[] xs = [.. curve.Attribute("points")!.Value.Split(' ').Select(p => double.Parse(p.Split(',')[0], CultureInfo.InvariantCulture))];
        xs.Distinct().Count().ShouldBe(3, "points beyond the axis would be moved to its end");
        Of(svg, "text").ShouldContain(t => t.Value == "bound");
    }

    [Fact]
    public void Names_keep_clear_of_one_another()
    {
        XElement svg = Drawn(new ScatterChart { Title = "t", Points = [new("first", 1, 1), new("second", 1, 1.02), new("third", 1.001, 1), new("far", 3, 4)] });
        (double X, double Y)[] names = [.. Of(svg, "text").Where(t => t.Attribute("class") is null).Select(t => (Number(t, "x"), Number(t, "y")))];
        names.Length.ShouldBe(4);
        names.Distinct().Count().ShouldBe(4);
    }

    [Fact]
    public void Names_of_a_crowd_cover_neither_one_another_nor_points_and_are_tied_to_theirs()
    {
        XElement svg = Drawn(new ScatterChart { Title = "t", Points = [new("far", 0, 0), new("high", 10, 10), .. Enumerable.Range(0, 8).Select(i => new ScatterPoint($"name {i}", 5 + (0.06 * i), 5 + (0.3 * (i % 3))))] });
        (double Left, double Right, double Top, double Bottom)[] names = [.. Of(svg, "text").Where(t => t.Value.StartsWith("name", StringComparison.Ordinal)).Select(t => Covered(t))];
        names.Length.ShouldBe(8);
        (from a in names from b in names where a != b && a.Left < b.Right && b.Left < a.Right && a.Top < b.Bottom && b.Top < a.Bottom select (a, b)).ShouldBeEmpty();
        (double X, double Y)[] dots = [.. Of(svg, "circle").Select(c => (Number(c, "cx"), Number(c, "cy")))];
        (from n in names from d in dots where d.X > n.Left && d.X < n.Right && d.Y > n.Top && d.Y < n.Bottom select (n, d)).ShouldBeEmpty();
        XElement[] ties = [.. Of(svg, "line").Where(l => Class(l) == "leader")];
        ties.ShouldNotBeEmpty();
        ties.ShouldAllBe(l => dots.Contains(new(Number(l, "x1"), Number(l, "y1"))));
    }

    [Fact]
    public void A_curves_name_keeps_clear_of_the_curve_and_of_the_points()
    {
        foreach (double slope in (double[])[1, -1])
        {
            (double X, double Y)[] line = [.. Enumerable.Range(0, 20).Select(i => (i / 19.0, 5 + (slope * i / 4)))];
            XElement svg = Drawn(new ScatterChart { Title = "t", Points = [new("a", 0.02, 5), new("b", 0.03, 5)], Curves = [new("a bound", line, Tone.Slate)] });
            XElement name = Of(svg, "text").Single(t => t.Value == "a bound");
            (double left, double right, double top, double bottom) = Covered(name);
            double[][] drawn = [.. Of(svg, "polyline").Single().Attribute("points")!.Value.Split(' ').Select(p => p.Split(',').Select(v => double.Parse(v, CultureInfo.InvariantCulture)).ToArray())];
            drawn.ShouldNotContain(p => p[0] > left && p[0] < right && p[1] > top && p[1] < bottom);
            Of(svg, "circle").ShouldNotContain(c => Number(c, "cx") > left && Number(c, "cx") < right && Number(c, "cy") > top && Number(c, "cy") < bottom);
        }
    }

    [Fact]
    public void Figures_that_hardly_differ_are_not_drawn_far_apart()
    {
        XElement svg = Drawn(new ScatterChart { Title = "t", Points = [new("a", 1_368_868, 1), new("b", 1_371_072, 2)] });
        double[] xs = [.. Of(svg, "circle").Select(c => Number(c, "cx"))];
        Math.Abs(xs[0] - xs[1]).ShouldBeLessThan(40);
    }

    [Fact]
    public void Any_finite_points_are_drawn_within_the_frame() =>
        Gen.Select(Gen.Double[-1e6, 1e6], Gen.Double[1e-3, 1e6], Gen.Double[0, 1e5], Gen.Double[0, 1e5]).Array[1, 6].Sample(figures =>
        {
            ScatterPoint[] points = [.. figures.Select((f, i) => new ScatterPoint($"p{i}", f.Item1, f.Item2, f.Item3, f.Item4))];
            foreach (bool logarithmic in new[] { false, true })
            {
                XElement svg = Drawn(new ScatterChart { Title = "t", Points = points, Front = Goal.Higher, Logarithmic = logarithmic });
                Of(svg, "circle").ShouldAllBe(c => Number(c, "cx") >= 52 && Number(c, "cx") <= 944 && Number(c, "cy") >= 26 && Number(c, "cy") <= 300);
            }
        }, iter: 200);

    [Fact]
    public void Points_that_are_no_numbers_are_left_out_and_none_at_all_says_so()
    {
        var chart = new ScatterChart { Title = "t", Logarithmic = true, Points = [new("nan", double.NaN, 1), new("burst", 1, double.PositiveInfinity), new("zero", 1, 0)] };
        new ReportPage("t", "h").Add(chart).ToHtml().ShouldContain("nothing was measured");
    }

    private static (double Left, double Right, double Top, double Bottom) Covered(XElement text)
    {
        double wide = Svg.TextWidth(text.Value), left = Number(text, "x") - (text.Attribute("text-anchor")?.Value switch { "end" => wide, "middle" => wide / 2, _ => 0 });
        return (left, left + wide, Number(text, "y") - 11, Number(text, "y") + 3);
    }

    private static XElement Drawn(ScatterChart chart) =>
        XElement.Parse(Regex.Match(new ReportPage("t", "h").Add(chart).ToHtml(), "<svg class=\"wide\".*?</svg>", RegexOptions.Singleline).Value);

    private static IEnumerable<XElement> Of(XElement svg, string name) => svg.Elements(name);

    private static string Class(XElement element) => element.Attribute("class")!.Value;

    private static double Number(XElement element, string name) => double.Parse(element.Attribute(name)!.Value, CultureInfo.InvariantCulture);
}
