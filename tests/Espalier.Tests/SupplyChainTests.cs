using System.Text.Json;

namespace Espalier.Tests;

/// <summary>What is restored is what is written down: lock files, and the page of licences that build/licences.sh makes of them.</summary>
public sealed class SupplyChainTests
{
    private static readonly string[] Permissive = ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "PostgreSQL"];

    private static IReadOnlyList<string> Projects =>
        [.. new[] { "src", "tests", "bench", "build" }.SelectMany(f => Directory.GetFiles(Path.Combine(TestPaths.Repository, f), "*.csproj", SearchOption.AllDirectories)).Order(StringComparer.Ordinal)];

    [Fact]
    public void Every_project_has_a_lock_file_with_hashes_and_without_addresses()
    {
        Projects.Count.ShouldBeGreaterThan(10);
        foreach (string project in Projects)
        {
            string path = LockOf(project);
            File.Exists(path).ShouldBeTrue($"{project} has no packages.lock.json; dotnet restore writes it.");
            File.ReadAllText(path).ShouldNotContain("://");
            Packages(project).ShouldAllBe(p => p.Hash.Length == 88);
        }
    }

    [Fact]
    public void The_page_of_licences_names_every_package_that_is_restored()
    {
        (string, string)[] ships = [.. Of("src")];
        (string, string)[] others = [.. Of("tests").Concat(Of("bench")).Concat(Of("build")).Distinct().Except(ships)];
        string[] parts = File.ReadAllText(Path.Combine(TestPaths.Repository, "docs", "licences.md")).Split("## In build, tests and measurements alone");
        parts.Length.ShouldBe(2);
        Rows(parts[0]).Select(r => (r.Name, r.Version)).ShouldBe(ships, ignoreOrder: true, "run build/licences.sh");
        Rows(parts[1]).Select(r => (r.Name, r.Version)).ShouldBe(others, ignoreOrder: true, "run build/licences.sh");
        Rows(parts[0]).Concat(Rows(parts[1])).ShouldAllBe(r => Permissive.Contains(r.Licence));

        static IEnumerable<(string, string)> Of(string folder) => Projects.Where(p => p.StartsWith(Path.Combine(TestPaths.Repository, folder) + Path.DirectorySeparatorChar, StringComparison.Ordinal))
            .SelectMany(Packages).Select(p => (p.Name, p.Version)).Distinct();
    }

    private static string LockOf(string project) => Path.Combine(Path.GetDirectoryName(project)!, "packages.lock.json");

    private static IReadOnlyList<(string Name, string Version, string Hash)> Packages(string project)
    {
        using JsonDocument json = JsonDocument.Parse(File.ReadAllText(LockOf(project)));
        return [.. json.RootElement.GetProperty("dependencies").EnumerateObject().SelectMany(f => f.Value.EnumerateObject())
            .Where(p => p.Value.GetProperty("type").GetString() != "Project")
            .Select(p => (p.Name, p.Value.GetProperty("resolved").GetString()!, p.Value.GetProperty("contentHash").GetString()!))];
    }

    private static IEnumerable<(string Name, string Version, string Licence)> Rows(string markdown) => markdown.Split('\n')
        .Where(l => l.StartsWith("| ", StringComparison.Ordinal) && !l.StartsWith("| package", StringComparison.Ordinal))
        .Select(l => l.Split('|', StringSplitOptions.TrimEntries)).Select(c => (c[1], c[2], c[3]));
}
