using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>Where the hub is, where its cache is, and how it is spoken to.</summary>
public sealed record HubOptions
{
    /// <summary>The hub's address when nothing else is said.</summary>
    public const string DefaultEndpoint = "https://huggingface.co";

    /// <summary>The hub's address, without a slash at its end. Default: <c>HF_ENDPOINT</c>, else the public hub.</summary>
    public string Endpoint { get; init; } = DefaultEndpoint;

    /// <summary>The folder of the cache, laid out as in other tools, which share it.</summary>
    public required string CacheFolder { get; init; }

    /// <summary>Whether the network must not be used: only what is in the cache is found.</summary>
    public bool Offline { get; init; }

    /// <summary>The token sent to the hub, and to nobody else; null when there is none.</summary>
    public string? Token { get; init; }

    /// <summary>How many files are downloaded at once. Default 4.</summary>
    public int ParallelFiles { get; init; } = 4;

    /// <summary>How often a request that failed for no fault of its own is tried. Default 5.</summary>
    public int Attempts { get; init; } = 5;

    /// <summary>How long the hub may be silent before a connection counts as dropped. Default 30 seconds.</summary>
    public TimeSpan Silence { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>How long to wait before try <c>n + 1</c>, when the hub does not say: 1, 2, 4, 8 ... seconds.</summary>
    internal Func<int, TimeSpan> BackOff { get; init; } = attempt => TimeSpan.FromSeconds(Math.Pow(2, attempt - 1));

    /// <summary>Waits; tests do not.</summary>
    internal Func<TimeSpan, CancellationToken, Task> Wait { get; init; } = Task.Delay;

    /// <summary>The bytes that may still be written to the disk of a folder.</summary>
    internal Func<string, long> FreeSpace { get; init; } = folder => new DriveInfo(folder).AvailableFreeSpace;

    /// <summary>Whether the system makes symbolic links; where it does not, files are copied into snapshots.</summary>
    internal bool SymbolicLinks { get; init; } = true;

    /// <summary>
    /// The options that the environment gives: <c>HF_ENDPOINT</c>, <c>HF_HUB_CACHE</c>, <c>HF_HOME</c>, <c>HF_HUB_OFFLINE</c>,
    /// <c>HF_TOKEN</c> and the token file (<c>HF_TOKEN_PATH</c>, else <c>token</c> in <c>HF_HOME</c>).
    /// </summary>
    /// <exception cref="EspalierException">When <c>HF_ENDPOINT</c> is no address.</exception>
    public static HubOptions FromEnvironment() => From(Environment.GetEnvironmentVariable);

    /// <summary>The options that some variables give.</summary>
    /// <param name="variable">The value of a variable, or null.</param>
    internal static HubOptions From(Func<string, string?> variable)
    {
        string? Value(params string[] names) => names.Select(variable).FirstOrDefault(value => !string.IsNullOrWhiteSpace(value))?.Trim();

        string user = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        string home = Value("HF_HOME") ?? Path.Combine(Value("XDG_CACHE_HOME") ?? Path.Combine(user, ".cache"), "huggingface");
        string endpoint = (Value("HF_ENDPOINT") ?? DefaultEndpoint).TrimEnd('/');
        EspalierException.Require(
            Uri.TryCreate(endpoint, UriKind.Absolute, out Uri? address) && address.Scheme is "https" or "http",
            $"HF_ENDPOINT is '{endpoint}', which is no address of a hub; set it to something like {DefaultEndpoint}, or unset it.");
        return new HubOptions
        {
            Endpoint = endpoint,
            CacheFolder = Path.GetFullPath(Expand(Value("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") ?? Path.Combine(home, "hub"), user)),
            Offline = IsTrue(Value("HF_HUB_OFFLINE")) || IsTrue(Value("TRANSFORMERS_OFFLINE")),
            Token = Value("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") ?? ReadToken(Expand(Value("HF_TOKEN_PATH") ?? Path.Combine(home, "token"), user)),
        };
    }

    /// <summary>The record without the token: it is not to end up in a log.</summary>
    public override string ToString() => $"{Endpoint}, cache {CacheFolder}{(Offline ? ", offline" : string.Empty)}{(Token is null ? string.Empty : ", with a token")}";

    private static string Expand(string path, string user) =>
        path == "~" || path.StartsWith("~/", StringComparison.Ordinal) ? user + path[1..] : path;

    private static bool IsTrue(string? value) => value?.ToUpperInvariant() is "1" or "ON" or "YES" or "TRUE";

    private static string? ReadToken(string path)
    {
        try
        {
            string token = File.Exists(path) ? File.ReadAllText(path).Trim() : string.Empty;
            return token.Length == 0 ? null : token;
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            // Public models need no token; the hub says so where one does.
            return null;
        }
    }
}
