using System.Reflection;

namespace Espalier.Tests;

/// <summary>Where tests find the checkout, the shared folder beside it, and room for files.</summary>
internal static class TestPaths
{
    /// <summary>The root of the checkout that the tests were built from.</summary>
    public static string Repository { get; } = typeof(Espalier.Runtime.NativeLibraries).Assembly
        .GetCustomAttributes<AssemblyMetadataAttribute>().First(a => a.Key == "RepositoryRoot").Value!;

    /// <summary>The folder of shared data and models beside the checkout; null where a clone has none.</summary>
    public static string? Shared { get; } = FindShared();

    /// <summary>The path of something in the shared folder; skips the test where there is none (in CI that is a failure).</summary>
    public static string RequireShared(string relative)
    {
        string? path = Shared is null ? null : Path.Combine(Shared, relative);
        if (path is null || !(File.Exists(path) || Directory.Exists(path)))
        {
            string reason = $"needs ../shared/{relative}, which a user's clone does not have";
            Assert.False(Environment.GetEnvironmentVariable("CI") == "true", $"In CI this is a failure: {reason}.");
            Assert.Skip(reason);
        }

        return path!;
    }

    private static string? FindShared()
    {
        string? named = Environment.GetEnvironmentVariable("ESPALIER_SHARED");
        string beside = named ?? Path.GetFullPath(Path.Combine(Repository, "..", "shared"));
        return Directory.Exists(beside) ? beside : null;
    }
}

/// <summary>A folder that is deleted when the test ends.</summary>
internal sealed class TemporaryFolder : IDisposable
{
    /// <summary>The folder's full path.</summary>
    public string Path { get; } = Directory.CreateTempSubdirectory("espalier-test-").FullName;

    /// <summary>A path inside the folder.</summary>
    public string this[string name] => System.IO.Path.Combine(Path, name);

    public void Dispose()
    {
        try
        {
            Directory.Delete(Path, recursive: true);
        }
        catch (IOException)
        {
            // Something still maps a file of it; the system's own clean-up takes it.
        }
    }
}

/// <summary>Tests leave the user's cache and the user's record of runs alone.</summary>
internal static class NoTraces
{
    [System.Runtime.CompilerServices.ModuleInitializer]
    internal static void TurnOff()
    {
        Environment.SetEnvironmentVariable("ESPALIER_CACHE", "none");
        Environment.SetEnvironmentVariable("ESPALIER_RUNS", "none");
    }
}
