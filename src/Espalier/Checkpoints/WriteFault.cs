using Espalier.Runtime;

namespace Espalier.Checkpoints;

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
