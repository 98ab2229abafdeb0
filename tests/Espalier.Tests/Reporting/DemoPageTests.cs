namespace Espalier.Tests.Reporting;

/// <summary>Writes the demo page where ESPALIER_DEMO_PAGE says, to be looked at; otherwise only that it can be made.</summary>
public sealed class DemoPageTests
{
    [Fact]
    public void The_demo_page_can_be_made()
    {
        using var folder = new TemporaryFolder();
        string path = Environment.GetEnvironmentVariable("ESPALIER_DEMO_PAGE") ?? folder["demo.html"];
        DemoPage.Make().Save(path);
        new FileInfo(path).Length.ShouldBeInRange(20_000, 400_000);
    }
}
