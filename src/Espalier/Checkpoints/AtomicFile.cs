using System.Text;
using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>Writes small files all or nothing: a reader sees the old content or the new, also after a crash or a power cut.</summary>
public static class AtomicFile
{
    private static readonly UTF8Encoding Utf8 = new(encoderShouldEmitUTF8Identifier: false);

    /// <summary>Writes a file under a temporary name in the same folder, flushes it to the disk and renames it over the target.</summary>
    /// <param name="path">The file; its folder is made when there is none.</param>
    /// <param name="write">Writes the content. When it throws, the target stays as it was.</param>
    /// <exception cref="EspalierException">When the disk is full or the folder not writable.</exception>
    public static void Write(string path, Action<Stream> write) => Write(path, write, FileSystem.Instance);

    /// <summary>Writes a text file in UTF-8, all or nothing.</summary>
    /// <param name="path">The file; its folder is made when there is none.</param>
    /// <param name="text">Its content.</param>
    /// <exception cref="EspalierException">When the disk is full or the folder not writable.</exception>
    public static void WriteText(string path, string text) => Write(path, stream => stream.Write(Utf8.GetBytes(text)));

    /// <summary>The same through another file layer.</summary>
    internal static void Write(string path, Action<Stream> write, IFileLayer layer)
    {
        using var pending = new PendingFile(path, 0, layer);
        pending.Write(write);
        pending.Publish();
    }
}
