using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>Turns what a user names, a folder or an id on the hub, into a folder on this machine.</summary>
/// <remarks>Nothing is sent unless an id is given that is no path here. Variables of the environment: see <see cref="HubOptions.FromEnvironment"/>.</remarks>
public static class Hub
{
    /// <summary>A model's folder.</summary>
    /// <param name="idOrFolder">A folder, a *.safetensors file, or <c>org/name[@revision]</c>. What exists on the disk goes before an id.</param>
    /// <param name="progress">Told the bytes of a download.</param>
    /// <param name="cancellation">Ends a download; what has arrived is kept.</param>
    /// <exception cref="EspalierException">When there is no such folder or model; the sentence says what to do.</exception>
    public static string Resolve(string idOrFolder, IProgressSink progress, CancellationToken cancellation = default) =>
        ResolveAsync(idOrFolder, progress, cancellation).GetAwaiter().GetResult();

    /// <summary>A model's folder, without blocking the thread.</summary>
    /// <inheritdoc cref="Resolve"/>
    public static Task<string> ResolveAsync(string idOrFolder, IProgressSink progress, CancellationToken cancellation = default) =>
        ResolveAsync(idOrFolder, RepositoryKind.Model, HubOptions.FromEnvironment, progress, null, cancellation);

    /// <summary>A data set's folder.</summary>
    /// <param name="idOrFolder">A folder or file, or <c>org/name[@revision]</c>. What exists on the disk goes before an id.</param>
    /// <param name="progress">Told the bytes of a download.</param>
    /// <param name="wanted">Which files, by their names in the repository ("plain_text/train-00000-of-00001.parquet"); null for all but code.</param>
    /// <param name="cancellation">Ends a download; what has arrived is kept.</param>
    /// <exception cref="EspalierException">When there is no such folder or data set; the sentence says what to do.</exception>
    public static string ResolveDataset(
        string idOrFolder, IProgressSink progress, Func<string, bool>? wanted = null, CancellationToken cancellation = default) =>
        ResolveDatasetAsync(idOrFolder, progress, wanted, cancellation).GetAwaiter().GetResult();

    /// <summary>A data set's folder, without blocking the thread.</summary>
    /// <inheritdoc cref="ResolveDataset"/>
    public static Task<string> ResolveDatasetAsync(
        string idOrFolder, IProgressSink progress, Func<string, bool>? wanted = null, CancellationToken cancellation = default) =>
        ResolveAsync(idOrFolder, RepositoryKind.Dataset, HubOptions.FromEnvironment, progress, wanted, cancellation);

    /// <summary>The same with given options, which are made only when the hub is needed.</summary>
    internal static async Task<string> ResolveAsync(
        string idOrFolder, RepositoryKind kind, Func<HubOptions> options, IProgressSink progress, Func<string, bool>? wanted, CancellationToken cancellation)
    {
        string path = idOrFolder.StartsWith("~/", StringComparison.Ordinal)
            ? Environment.GetFolderPath(Environment.SpecialFolder.UserProfile) + idOrFolder[1..]
            : idOrFolder;
        if (Directory.Exists(path) || File.Exists(path))
        {
            return Path.GetFullPath(path);
        }

        EspalierException.Require(!LooksLikePath(idOrFolder), $"There is no folder or file {idOrFolder}; check the path, or give an id on the hub (org/name).");
        RepositoryId id = RepositoryId.Parse(idOrFolder, kind);
        using var client = new HubClient(options());
        return await client.ResolveAsync(id, progress, wanted, cancellation).ConfigureAwait(false);
    }

    private static bool LooksLikePath(string text) =>
        text.Length == 0 || text[0] is '.' or '/' or '~' || text.Contains('\\', StringComparison.Ordinal) || text.EndsWith('/')
        || text.EndsWith(".safetensors", StringComparison.Ordinal);
}
