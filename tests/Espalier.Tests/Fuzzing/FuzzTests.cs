using System.Globalization;

namespace Espalier.Tests.Fuzzing;

/// <summary>
/// A short run of the fuzzer on every reader; a long one with <c>ESPALIER_FUZZ=INPUTS bench/fuzz.sh</c>. Files that once made a reader do
/// what it must not lie in the corpus and are read in every run.
/// </summary>
public sealed class FuzzTests(ITestOutputHelper output)
{
    private const long SmokeInputs = 300;

    public static TheoryData<string> Names => [.. FuzzTargets.All.Select(t => t.Name).Where(n => Environment.GetEnvironmentVariable("ESPALIER_FUZZ_ONLY") is not { Length: > 0 } only || only.Split(',').Contains(n))];

    private static string CorpusRoot => Path.Combine(TestPaths.Repository, "tests", "Espalier.Tests", "Fuzzing", "Corpus");

    [Theory]
    [MemberData(nameof(Names))]
    public void A_changed_file_is_read_or_refused_in_a_sentence(string name)
    {
        FuzzTarget target = FuzzTargets.All.Single(t => t.Name == name);
        bool isLong = long.TryParse(Environment.GetEnvironmentVariable("ESPALIER_FUZZ"), CultureInfo.InvariantCulture, out long count);
        int seed = int.TryParse(Environment.GetEnvironmentVariable("ESPALIER_FUZZ_SEED"), CultureInfo.InvariantCulture, out int given) ? given : 1;
        string folder = Path.Combine(CorpusRoot, name);
        IEnumerable<byte[]> corpus = Directory.Exists(folder) ? Directory.GetFiles(folder).Order(StringComparer.Ordinal).Select(File.ReadAllBytes) : [];
        FuzzResult result = new FuzzRun(target, seed).Run(isLong ? count : SmokeInputs, corpus, Environment.GetEnvironmentVariable("ESPALIER_FUZZ_KEEP") is { } keep ? Directory.CreateDirectory(Path.Combine(keep, name)).FullName : null);
        string line = string.Create(CultureInfo.InvariantCulture, $"{name}: {result.Inputs} files, {result.Accepted} sound, {result.Behaviours} behaviours, slowest {result.SlowestMs:f0} ms, largest {result.LargestBytes / 1048576.0:f1} MiB, {result.Faults.Count} faults");
        output.WriteLine(line);
        if (isLong)
        {
            File.AppendAllText(Environment.GetEnvironmentVariable("ESPALIER_FUZZ_LOG") ?? "fuzz.log", line + "\n" + string.Concat(result.Faults.Select(f => $"    {f.What.ReplaceLineEndings(" ")}\n    {Convert.ToBase64String(f.File)}\n")));
        }

        result.Faults.Select(f => $"{f.What} ({f.File.Length} bytes: {Convert.ToBase64String(f.File.AsSpan(0, Math.Min(f.File.Length, 3000)))})").ShouldBeEmpty();
    }
}
