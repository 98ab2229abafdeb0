using Espalier.Runtime;

namespace Espalier.Runs;

/// <summary>Where the run store is: a file of SQLite, a database of PostgreSQL, or nowhere.</summary>
public sealed record RunLocation
{
    /// <summary>The variable that says where: a path, a connection string of PostgreSQL, or <c>none</c>.</summary>
    public const string Variable = "ESPALIER_RUNS";

    private RunLocation()
    {
    }

    /// <summary>The file of SQLite, or null.</summary>
    public string? File { get; private init; }

    /// <summary>The connection string of PostgreSQL, or null.</summary>
    public string? Connection { get; private init; }

    /// <summary>Nothing is recorded.</summary>
    public bool IsNone => File is null && Connection is null;

    /// <summary>What <c>ESPALIER_RUNS</c> says; by default <c>espalier/runs.db</c> in <c>XDG_DATA_HOME</c> or in the user's folder for application data.</summary>
    public static RunLocation FromEnvironment() => From(Environment.GetEnvironmentVariable);

    /// <summary>What a word says.</summary>
    /// <param name="word">A path of a file or a folder, <c>postgresql://user:password@host:port/database</c>, <c>Host=…;Database=…</c>, or <c>none</c>.</param>
    public static RunLocation Parse(string word)
    {
        word = word.Trim();
        if (word is "none")
        {
            return new RunLocation();
        }

        if (word.StartsWith("postgres://", StringComparison.OrdinalIgnoreCase) || word.StartsWith("postgresql://", StringComparison.OrdinalIgnoreCase))
        {
            return new RunLocation { Connection = PostgresAddress.ToConnectionString(word) };
        }

        if (word.Contains(';', StringComparison.Ordinal) || word.StartsWith("Host=", StringComparison.OrdinalIgnoreCase) || word.StartsWith("Server=", StringComparison.OrdinalIgnoreCase))
        {
            return new RunLocation { Connection = word };
        }

        string path = Path.GetFullPath(word);
        return new RunLocation { File = Directory.Exists(path) || word.EndsWith('/') ? Path.Combine(path, "runs.db") : path };
    }

    internal static RunLocation From(Func<string, string?> variable)
    {
        string? Value(string name) => variable(name) is { } value && !string.IsNullOrWhiteSpace(value) ? value.Trim() : null;

        if (Value(Variable) is { } word)
        {
            return Parse(word);
        }

        string data = Value("XDG_DATA_HOME") ?? Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData, Environment.SpecialFolderOption.DoNotVerify);
        EspalierException.Require(data.Length > 0, $"There is no folder for a run store, for this user has no home; set {Variable} to a path, or to none.");
        return new RunLocation { File = Path.Combine(data, "espalier", "runs.db") };
    }
}
