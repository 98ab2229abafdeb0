using Espalier.Models;
using Espalier.Verification;

namespace Espalier.Tests.Verification;

/// <summary>Every reference case that ships passes.</summary>
public sealed class ParityCasesTests
{
    private static readonly string Folder = Path.Combine(TestPaths.Repository, "tests", "parity");

    public static TheoryData<string> Systems => [.. Directory.EnumerateDirectories(Folder)
        .Where(d => Directory.EnumerateFiles(d, "*.safetensors", SearchOption.AllDirectories).Any()).Select(d => Path.GetFileName(d)).Order()];

    [Theory]
    [MemberData(nameof(Systems))]
    public void Every_case_of_a_system_passes(string system)
    {
        ParityReport report = ParityVerifier.Run(Folder, system);
        report.Lines[0].ShouldBe($"{system}: {report.Results.Count}/{report.Results.Count}");
        report.Passed.ShouldBeTrue();
        report.Results.ShouldAllBe(r => r.LargestError >= 0);

        long before = Parameters.LiveTensors;
        ParityVerifier.Run(Folder, system);
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before); // garbage of earlier tests may go meanwhile
    }
}
