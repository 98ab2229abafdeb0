namespace Espalier.Tests.Cli;

/// <summary>Files of what the user is to see. ESPALIER_ACCEPT=1 rewrites them with what is seen now.</summary>
internal static class Golden
{
    private static string Folder => Path.Combine(TestPaths.Repository, "tests", "Espalier.Tests", "Cli", "Expected");

    /// <summary>Compares a text with its file, line by line, without spaces at the ends of lines.</summary>
    public static void Check(string name, string seen)
    {
        string path = Path.Combine(Folder, name + ".txt"), text = Trimmed(seen);
        if (Environment.GetEnvironmentVariable("ESPALIER_ACCEPT") == "1")
        {
            File.WriteAllText(path, text);
            return;
        }

        Assert.True(File.Exists(path), $"There is no {path}; run the tests with ESPALIER_ACCEPT=1, look at it, and commit it.");
        text.ShouldBe(Trimmed(File.ReadAllText(path)), $"{name} differs; if it should, run the tests with ESPALIER_ACCEPT=1 and look at the difference.");
    }

    private static string Trimmed(string text) =>
        string.Join('\n', text.ReplaceLineEndings("\n").Split('\n').Select(l => l.TrimEnd())).TrimEnd() + "\n";
}
