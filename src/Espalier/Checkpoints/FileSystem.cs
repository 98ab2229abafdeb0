using System.Runtime.InteropServices;

namespace Espalier.Checkpoints;

/// <summary>The file system itself.</summary>
internal sealed partial class FileSystem : IFileLayer
{
    /// <summary>The one instance.</summary>
    public static FileSystem Instance { get; } = new();

    private FileSystem()
    {
    }

    /// <inheritdoc/>
    public Stream Create(string path, long length) => new FileStream(path, new FileStreamOptions
    {
        Mode = FileMode.CreateNew,
        Access = FileAccess.ReadWrite,
        Share = FileShare.None,
        // Asking for the room now makes a full disk an error before the work, not after it.
        PreallocationSize = length,
        BufferSize = 1 << 16,
    });

    /// <inheritdoc/>
    public void Flush(Stream stream)
    {
        if (stream is FileStream file)
        {
            file.Flush(flushToDisk: true);
        }
        else
        {
            stream.Flush();
        }
    }

    /// <inheritdoc/>
    public void Replace(string from, string to)
    {
        try
        {
            File.Move(from, to, overwrite: true);
        }
        catch (Exception fault) when (OperatingSystem.IsWindows() && fault is IOException or UnauthorizedAccessException && File.Exists(to))
        {
            // Windows does not rename over a file that is mapped or open, but it lets such a file itself be renamed.
            string aside = PendingFile.NameFor(to);
            File.Move(to, aside);
            try
            {
                File.Move(from, to);
            }
            catch
            {
                File.Move(aside, to);
                throw;
            }

            try
            {
                File.Delete(aside);
            }
            catch (Exception still) when (still is IOException or UnauthorizedAccessException)
            {
                // Still open for reading; the next writer of this file removes it.
            }
        }
    }

    /// <inheritdoc/>
    public void Link(string existing, string name)
    {
        bool done = OperatingSystem.IsWindows() ? CreateHardLink(name, existing, 0) : LinkFile(existing, name) == 0;
        if (!done)
        {
            throw new IOException($"no second name for {existing}: error {Marshal.GetLastPInvokeError()}");
        }
    }

    /// <inheritdoc/>
    public void Delete(string path) => File.Delete(path);

    /// <inheritdoc/>
    public void SyncFolder(string folder)
    {
        if (OperatingSystem.IsWindows())
        {
            return;
        }

        // A rename lasts through a power cut only when the folder was flushed as well.
        int descriptor = OpenFolder(folder, 0);
        if (descriptor < 0)
        {
            return;
        }

        // Some network file systems do not know how to; the rename itself has succeeded all the same.
        _ = SyncDescriptor(descriptor);
        _ = CloseDescriptor(descriptor);
    }

    [LibraryImport("libc", EntryPoint = "open", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int OpenFolder(string path, int flags);

    [LibraryImport("libc", EntryPoint = "fsync")]
    private static partial int SyncDescriptor(int descriptor);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int CloseDescriptor(int descriptor);

    [LibraryImport("libc", EntryPoint = "link", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    private static partial int LinkFile(string existing, string name);

    [LibraryImport("kernel32", EntryPoint = "CreateHardLinkW", StringMarshalling = StringMarshalling.Utf16, SetLastError = true)]
    [return: MarshalAs(UnmanagedType.Bool)]
    private static partial bool CreateHardLink(string name, string existing, nint attributes);
}
