using System.Security.Cryptography;
using System.Text;
using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>
/// A file on its way: written under a temporary name in the folder of its target, flushed to the disk, then renamed over the
/// target. Until the rename the old file is whole; after it the new one is. Disposing it unpublished removes it.
/// </summary>
internal sealed class PendingFile : IDisposable
{
    private const string Extension = ".partial";

    // A file that another process has this moment created may not be locked yet.
    private static readonly TimeSpan Young = TimeSpan.FromSeconds(10);

    private static readonly string Machine =
        Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(Environment.MachineName)).AsSpan(0, 4));

    private readonly IFileLayer layer;
    private readonly string target;
    private Stream? stream;
    private bool published;

    /// <summary>Begins a file.</summary>
    /// <param name="target">The path that it will have.</param>
    /// <param name="length">Its length in bytes where that is known, else 0.</param>
    /// <param name="layer">How files are written.</param>
    /// <exception cref="EspalierException">When the folder cannot be written or has no room.</exception>
    public PendingFile(string target, long length, IFileLayer? layer = null)
    {
        this.layer = layer ?? FileSystem.Instance;
        this.target = Path.GetFullPath(target);
        TemporaryPath = NameFor(this.target);
        try
        {
            EspalierException.Require(
                !Directory.Exists(this.target), $"{target} is a folder; name a file to write.");
            string folder = Path.GetDirectoryName(this.target)!;
            Directory.CreateDirectory(folder);
            RemoveAbandoned(folder, Path.GetFileName(this.target));
            stream = this.layer.Create(TemporaryPath, length);
        }
        catch (Exception fault) when (WriteFault.IsOne(fault))
        {
            Dispose();
            throw WriteFault.For(target, fault);
        }
    }

    /// <summary>The name it has until it is published.</summary>
    public string TemporaryPath { get; }

    /// <summary>Does something with the open file.</summary>
    /// <exception cref="EspalierException">When the disk refuses; the sentence names the target.</exception>
    public void Write(Action<Stream> action)
    {
        try
        {
            action(stream ?? throw new ObjectDisposedException(nameof(PendingFile)));
        }
        catch (Exception fault) when (WriteFault.IsOne(fault))
        {
            throw WriteFault.For(target, fault);
        }
    }

    /// <summary>Flushes it to the disk and closes it; calling it again does nothing.</summary>
    public void Finish()
    {
        if (stream is null)
        {
            return;
        }

        Write(layer.Flush);
        Stream finished = stream;
        stream = null;
        try
        {
            finished.Dispose();
        }
        catch (Exception fault) when (WriteFault.IsOne(fault))
        {
            throw WriteFault.For(target, fault);
        }
    }

    /// <summary>Renames it over its target, or another name in the same folder, and flushes the folder.</summary>
    /// <param name="otherName">A file name to take instead of the target's.</param>
    public void Publish(string? otherName = null)
    {
        Finish();
        string folder = Path.GetDirectoryName(target)!;
        try
        {
            layer.Replace(TemporaryPath, otherName is null ? target : Path.Combine(folder, otherName));
            published = true;
            layer.SyncFolder(folder);
        }
        catch (Exception fault) when (WriteFault.IsOne(fault))
        {
            throw WriteFault.For(target, fault);
        }
    }

    /// <summary>Closes the file and, when it was not published, removes it.</summary>
    public void Dispose()
    {
        try
        {
            stream?.Dispose();
        }
        catch (Exception fault) when (WriteFault.IsOne(fault))
        {
            // A full disk also refuses the last flush of a file that is to be thrown away.
        }

        stream = null;
        if (published)
        {
            return;
        }

        try
        {
            layer.Delete(TemporaryPath);
        }
        catch (Exception fault) when (WriteFault.IsOne(fault))
        {
            // It stays behind under a name that nobody reads; the next writer of the target removes it.
        }
    }

    /// <summary>A temporary name beside a target that no other process and no other writer uses.</summary>
    internal static string NameFor(string target) => Path.Combine(
        Path.GetDirectoryName(target)!,
        $".{Path.GetFileName(target)}.{Machine}-{Guid.NewGuid():N}{Extension}");

    /// <summary>Removes what killed writers of this machine left of the same target; a living one holds a lock on its file.</summary>
    private static void RemoveAbandoned(string folder, string name)
    {
        foreach (string path in Directory.EnumerateFiles(folder, $".{name}.{Machine}-*{Extension}"))
        {
            try
            {
                if (DateTime.UtcNow - File.GetLastWriteTimeUtc(path) < Young)
                {
                    continue;
                }

                using (new FileStream(path, FileMode.Open, FileAccess.ReadWrite, FileShare.None))
                {
                    // Nobody else has it open.
                }

                File.Delete(path);
            }
            catch (Exception fault) when (WriteFault.IsOne(fault))
            {
                // In use, or not ours to delete.
            }
        }
    }
}
