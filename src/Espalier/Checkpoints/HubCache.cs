using System.Text.RegularExpressions;
using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>
/// The cache on the disk, laid out as huggingface_hub does, which may use the same folder at the same time:
/// <c>models--org--name/refs/main</c> holds a commit, <c>snapshots/commit/file</c> links to <c>blobs/etag</c>.
/// </summary>
/// <param name="root">The folder of the cache.</param>
/// <param name="symbolicLinks">Whether to link; copies otherwise.</param>
internal sealed partial class HubCache(string root, bool symbolicLinks)
{
    /// <summary>The folder of everything that is known of a repository.</summary>
    public string Folder(RepositoryId id) => Path.Combine(root, id.FolderName);

    /// <summary>The folder of the files of one commit.</summary>
    public string Snapshot(RepositoryId id, string commit) => Path.Combine(Folder(id), "snapshots", commit);

    /// <summary>The file that holds some content, named by its hash.</summary>
    /// <exception cref="EspalierException">When the hub's name for it is not one that may be used as a file name.</exception>
    public string Blob(RepositoryId id, string etag)
    {
        EspalierException.Require(
            BlobName().IsMatch(etag), $"The hub names a file of {id} '{etag}', which cannot be a file name in the cache; try again later or from another endpoint.");
        return Path.Combine(Folder(id), "blobs", etag);
    }

    /// <summary>The snapshot that a revision was last known to be; null when there is none.</summary>
    public string? Find(RepositoryId id)
    {
        string reference = Reference(id);
        string commit = File.Exists(reference) ? File.ReadAllText(reference).Trim() : id.Revision;
        if (commit.Length == 0 || commit is "." or ".." || commit.AsSpan().IndexOfAny('/', '\\') >= 0)
        {
            return null;
        }

        string snapshot = Snapshot(id, commit);
        return Directory.Exists(snapshot) ? snapshot : null;
    }

    /// <summary>Notes which commit a revision is.</summary>
    public void Remember(RepositoryId id, string commit)
    {
        string reference = Reference(id);
        if (id.Revision != commit && !(File.Exists(reference) && File.ReadAllText(reference) == commit))
        {
            AtomicFile.WriteText(reference, commit);
        }
    }

    /// <summary>Puts a blob into a snapshot under its name.</summary>
    /// <param name="snapshot">The snapshot's folder.</param>
    /// <param name="file">The name in the repository, already checked.</param>
    /// <param name="blob">The content.</param>
    public void Place(string snapshot, string file, string blob)
    {
        string pointer = Path.Combine(snapshot, file);
        string folder = Path.GetDirectoryName(pointer)!;
        Directory.CreateDirectory(folder);
        if (symbolicLinks && TryLink(pointer, Path.GetRelativePath(folder, blob)))
        {
            return;
        }

        using FileStream content = File.OpenRead(blob);
        AtomicFile.Write(pointer, content.CopyTo);
    }

    private static bool TryLink(string pointer, string target)
    {
        try
        {
            // A link to a blob that is gone looks like no file but takes the name.
            File.Delete(pointer);
            File.CreateSymbolicLink(pointer, target);
            return true;
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException or PlatformNotSupportedException)
        {
            // Windows without the privilege, or another process was faster.
            return File.Exists(pointer);
        }
    }

    private string Reference(RepositoryId id) => Path.Combine(Folder(id), "refs", id.Revision);

    [GeneratedRegex(@"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\z")]
    private static partial Regex BlobName();
}
