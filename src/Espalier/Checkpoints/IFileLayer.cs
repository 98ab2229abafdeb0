using System.Runtime.InteropServices;
using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>The few calls by which files are written. Tests put a layer here that fails at the k-th call.</summary>
internal interface IFileLayer
{
    /// <summary>Creates a file that must not exist yet, closed to others, with room for <paramref name="length"/> bytes.</summary>
    Stream Create(string path, long length);

    /// <summary>Returns when what was written lies on the disk and not only in the system's memory.</summary>
    void Flush(Stream stream);

    /// <summary>Renames a file over another in one step.</summary>
    void Replace(string from, string to);

    /// <summary>Gives a file a second name.</summary>
    void Link(string existing, string name);

    /// <summary>Deletes a file; a missing one is no fault.</summary>
    void Delete(string path);

    /// <summary>Returns when the names in a folder lie on the disk.</summary>
    void SyncFolder(string folder);
}

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

/// <summary>Turns the system's complaints about writing into sentences.</summary>
internal static class WriteFault
{
    private const int NoSpaceLinux = 28;
    private const int ReadOnlyLinux = 30;
    private const int QuotaLinux = 122;
    private const int NoSpaceWindows = unchecked((int)0x80070070);

    /// <summary>Whether an exception is one that a disk or its permissions raise.</summary>
    public static bool IsOne(Exception fault) => fault is IOException or UnauthorizedAccessException or NotSupportedException;

    /// <summary>The sentence for a fault met while writing a file.</summary>
    /// <param name="path">The file that was to be written.</param>
    /// <param name="fault">What the system said.</param>
    public static EspalierException For(string path, Exception fault) => new(
        fault switch
        {
            { HResult: NoSpaceLinux or NoSpaceWindows or QuotaLinux } =>
                $"There is not enough room on the disk for {path}; free some and run it again. Nothing that was there before has been touched.",
            { HResult: ReadOnlyLinux } =>
                $"{path} cannot be written because its disk is mounted read-only; choose another folder.",
            UnauthorizedAccessException =>
                $"{path} cannot be written: permission was denied; choose another folder or change its permissions.",
            DirectoryNotFoundException =>
                $"{path} cannot be written because its folder does not exist and could not be made.",
            _ => $"Writing {path} failed ({fault.Message.TrimEnd('.')}). Nothing that was there before has been touched.",
        },
        fault);
}
