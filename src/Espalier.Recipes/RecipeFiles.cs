using Espalier.Runtime;

namespace Espalier.Recipes;

/// <summary>Files of data sets that no hub serves: a folder that the user names in ESPALIER_DATA holds them.</summary>
internal static class RecipeFiles
{
    /// <summary>The variable that names the folder.</summary>
    public const string Variable = "ESPALIER_DATA";

    /// <summary>The path of a file.</summary>
    /// <param name="relative">Its place in the folder ("ml-100k/u1.base").</param>
    /// <param name="source">Where it can be had, for the sentence.</param>
    /// <exception cref="EspalierException">When there is no such file.</exception>
    public static string Require(string relative, string source)
    {
        string? folder = Environment.GetEnvironmentVariable(Variable);
        EspalierException.Require(!string.IsNullOrEmpty(folder) && File.Exists(Path.Combine(folder, relative)),
            $"This reproduction reads {relative} ({source}); set {Variable} to a folder that holds it.");
        return Path.Combine(folder!, relative);
    }
}
