namespace Espalier.Runtime;

/// <summary>The <c>espalier</c> tool that this process belongs to, for work that is done in processes of its own.</summary>
public static class OwnTool
{
    /// <summary>The words that start it, before its own words.</summary>
    public static IReadOnlyList<string> Words
    {
        get
        {
            string program = Environment.ProcessPath ?? "dotnet", tool = Path.Combine(AppContext.BaseDirectory, "Espalier.Cli.dll");
            return Path.GetFileNameWithoutExtension(program).ToUpperInvariant() is "ESPALIER" or "ESPALIER.CLI" ? [program] : ["dotnet", tool];
        }
    }
}
