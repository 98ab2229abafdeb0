using Espalier.Reporting;
using Espalier.Runtime;

namespace Espalier.Tests.Reporting;

public sealed class ReportJsonTests
{
    private sealed record Sample(string Name, double Value, (long Before, long After) Bytes, IReadOnlyList<double> Losses, Tone Tone);

    [Fact]
    public void A_report_comes_back_as_it_was_written()
    {
        using var folder = new TemporaryFolder();
        var written = new Sample("a < b", double.NaN, (10, 5), [1.5, double.PositiveInfinity], Tone.Clay);
        ReportJson.Save(folder["report.json"], written);
        Sample read = ReportJson.Load<Sample>(folder["report.json"]);
        (read with { Losses = [] }).ShouldBe(written with { Losses = [] });
        read.Losses.ShouldBe(written.Losses);
    }

    [Fact]
    public void A_damaged_or_missing_report_is_named()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["report.json"], "{ \"name\": ");
        Should.Throw<EspalierException>(() => ReportJson.Load<Sample>(folder["report.json"])).Message.ShouldContain("not a report");
        Should.Throw<EspalierException>(() => ReportJson.Load<Sample>(folder["none.json"])).Message.ShouldContain("no report");
    }
}
