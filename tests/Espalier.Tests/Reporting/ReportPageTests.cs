using System.Text.RegularExpressions;
using System.Xml.Linq;
using Espalier.Reporting;

namespace Espalier.Tests.Reporting;

public sealed partial class ReportPageTests
{
    private readonly string _html = DemoPage.Make().ToHtml();

    [Fact]
    public void A_page_needs_nothing_from_outside()
    {
        _html.ShouldNotContain("http://");
        _html.ShouldNotContain("https://");
        _html.ShouldNotContain(" src=");
        _html.ShouldNotContain("@import");
        _html.ShouldNotContain("url(");
        _html.ShouldContain("default-src 'none'");
    }

    [Fact]
    public void Text_is_encoded_wherever_it_comes_from()
    {
        const string evil = "<script>alert(\"1\")</script>&";
        string html = new ReportPage(evil, evil) { Kicker = evil, Footer = evil }
            .Add(new Figures(new Figure(evil, evil, evil)))
            .Add(new Callout(evil))
            .Add(new CodeBlock(evil, evil))
            .Add(new Details(evil, new Paragraph(evil)))
            .Add(new DataTable([new(evil)], [[evil]], evil))
            .Add(new TextSamples([new(evil, [(evil, evil)])]))
            .Section(evil, evil,
                new BarChart { Title = evil, Note = evil, Bars = [new(evil, 1, Shown: evil)] },
                new LineChart { Title = evil, XLabel = evil, YLabel = evil, Lines = [Series.Of(evil, [1, 2]), Series.Of(evil, [2, 1])] },
                new ColumnChart { Title = evil, Places = [evil], Columns = [new(evil, [1.0])], XLabel = evil, YLabel = evil, Format = _ => evil },
                new ScatterChart { Title = evil, XLabel = evil, YLabel = evil, Reference = (evil, 1), Points = [new(evil, 1, 2)] },
                new HeatGrid { Title = evil, Rows = [evil], Columns = [evil], Values = [[0.5]], XLabel = evil, Format = _ => evil })
            .ToHtml();
        Regex.Count(html, "<script>").ShouldBe(1);
        html.ShouldNotContain("alert(\"1\")");
    }

    [Fact]
    public void Every_drawing_is_well_formed_and_described()
    {
        MatchCollection drawings = Drawing().Matches(_html);
        drawings.Count.ShouldBe(1 + (6 * 2)); // the mark, and six charts at two widths
        foreach (Match drawing in drawings)
        {
            XElement svg = XElement.Parse(drawing.Value);
            if (svg.Attribute("class")!.Value != "mark")
            {
                svg.Attribute("aria-label")!.Value.Length.ShouldBeGreaterThan(20);
            }
        }

        _html.ShouldNotContain("NaN");
    }

    [Fact]
    public void Tags_are_balanced()
    {
        string[] lonely = ["meta", "!doctype", "path", "line", "rect", "circle", "polyline"];
        var open = new Stack<string>();
        foreach (Match tag in Tag().Matches(Script().Replace(_html, "")))
        {
            string name = tag.Groups[2].Value;
            if (tag.Groups[1].Value == "/")
            {
                open.Pop().ShouldBe(name);
            }
            else if (!tag.Value.EndsWith("/>", StringComparison.Ordinal) && !(lonely.Contains(name) && name is "meta" or "!doctype"))
            {
                open.Push(name);
            }
        }

        open.ShouldBeEmpty();
    }

    [Theory]
    [InlineData(1)]
    [InlineData(80)]
    public void Any_number_of_blocks_is_drawn(int blocks) => DemoPage.Make(blocks).ToHtml().ShouldNotContain("NaN");

    [Fact]
    public void Charts_without_values_say_so_and_odd_values_leave_gaps()
    {
        string html = new ReportPage("t", "h")
            .Add(new LineChart { Title = "empty", Lines = [] })
            .Add(new LineChart { Title = "gap", Lines = [Series.Of("x", [1, double.NaN, double.PositiveInfinity, 3])] })
            .Add(new BarChart { Title = "none", Bars = [] })
            .Add(new BarChart { Title = "burst", Bars = [new("a", double.PositiveInfinity), new("b", 0)] })
            .Add(new ColumnChart { Title = "null", Places = ["0"], Columns = [new("c", [null])] })
            .Add(new HeatGrid { Title = "flat", Rows = ["r"], Columns = ["0", "1"], Values = [[0.5, null]] })
            .ToHtml();
        Regex.Count(html, "nothing was measured").ShouldBe(3);
        html.ShouldNotContain("NaN,");
        html.ShouldNotContain("∞\"");
    }

    [Fact]
    public void A_row_of_another_width_is_refused() =>
        Should.Throw<ArgumentException>(() => new DataTable([new("a"), new("b")], [["1"]])).Message.ShouldContain("1 cells for 2 columns");

    [Fact]
    public void The_page_is_saved_whole()
    {
        using var folder = new TemporaryFolder();
        DemoPage.Make().Save(folder["report.html"]);
        File.ReadAllText(folder["report.html"]).ShouldBe(_html);
        Directory.GetFiles(folder.Path).Length.ShouldBe(1);
    }

    [GeneratedRegex("<svg.*?</svg>", RegexOptions.Singleline)]
    private static partial Regex Drawing();

    [GeneratedRegex("<(style|script)>.*?</\\1>", RegexOptions.Singleline)]
    private static partial Regex Script();

    [GeneratedRegex("<(/?)([a-zA-Z0-9!]+)[^>]*>")]
    private static partial Regex Tag();
}
