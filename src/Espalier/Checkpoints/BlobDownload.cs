using System.Globalization;
using System.Net;
using System.Security.Cryptography;
using System.Text;
using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>What is known of a file before it is downloaded.</summary>
/// <param name="ETag">Its content's name: a SHA-256 for large files, git's SHA-1 for small ones.</param>
/// <param name="Size">Its bytes; null when the hub does not say.</param>
internal sealed record RemoteFile(string ETag, long? Size);

/// <summary>
/// Downloads one file into the cache. What has arrived lies in an <c>.incomplete</c> file that the next try, or the next run, goes
/// on with; it gets its name only when size and hash are right.
/// </summary>
internal sealed class BlobDownload
{
    private const long WorthwhileProgress = 1 << 20;
    private const int MostRivals = 20;

    // An open file is renamed below, which Windows allows only when that is shared; elsewhere anything but None is no lock.
    private static readonly FileShare Alone = OperatingSystem.IsWindows() ? FileShare.Delete : FileShare.None;

    private readonly HubHttp http;
    private readonly HubOptions options;
    private readonly RepositoryId id;
    private readonly string file;
    private readonly RemoteFile remote;
    private readonly string blob;
    private readonly Action<long> advance;
    private long reported;

    /// <summary>Describes a download; nothing is sent yet.</summary>
    /// <param name="http">The connection.</param>
    /// <param name="options">How the hub is spoken to.</param>
    /// <param name="id">The repository.</param>
    /// <param name="file">The file's name in it, for sentences.</param>
    /// <param name="remote">What the hub says of it.</param>
    /// <param name="blob">Where it goes.</param>
    /// <param name="advance">Told the bytes that have arrived since the last call; those found on the disk count too.</param>
    public BlobDownload(HubHttp http, HubOptions options, RepositoryId id, string file, RemoteFile remote, string blob, Action<long> advance)
    {
        this.http = http;
        this.options = options;
        this.id = id;
        this.file = file;
        this.remote = remote;
        this.blob = blob;
        this.advance = advance;
    }

    /// <summary>The bytes of a file that an earlier, broken-off download has left.</summary>
    public static long BytesAtHand(string blob) =>
        Leftovers(blob).Select(path => new FileInfo(path)).Where(info => info.Exists).Select(info => info.Length).DefaultIfEmpty(0).Max();

    /// <summary>Downloads the file.</summary>
    /// <exception cref="EspalierException">When it does not arrive, or is not what was promised; what has arrived is kept for the next run.</exception>
    public async Task RunAsync(Uri address, CancellationToken cancellation)
    {
        try
        {
            for (int attempt = 1; !await DownloadAsync(address, cancellation).ConfigureAwait(false); attempt++)
            {
                EspalierException.Require(attempt < MostRivals, $"Other processes took the download of {file} of {id} over again and again; wait for them and run it again.");
            }
        }
        catch (Exception fault) when (WriteFault.IsOne(fault))
        {
            throw WriteFault.For(blob, fault);
        }
    }

    /// <summary>False when another process took the finished part before it had its name.</summary>
    private async Task<bool> DownloadAsync(Uri address, CancellationToken cancellation)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(blob)!);
        (FileStream stream, string path) = Claim();
        await using (stream.ConfigureAwait(false))
        {
            await ArriveAsync(stream, address, cancellation).ConfigureAwait(false);
            if (!await IsGenuineAsync(stream, cancellation).ConfigureAwait(false))
            {
                // Perhaps an old, damaged part was gone on with: once more from the start.
                stream.SetLength(0);
                await ArriveAsync(stream, address, cancellation).ConfigureAwait(false);
                if (!await IsGenuineAsync(stream, cancellation).ConfigureAwait(false))
                {
                    File.Delete(path);
                    throw new EspalierException(
                        $"{file} of {id} arrived damaged twice: its content does not have the hash {remote.ETag} that the hub names; try again later or from another network.");
                }
            }

            stream.Flush(flushToDisk: true);
        }

        try
        {
            File.Move(path, blob, overwrite: true);
        }
        catch (FileNotFoundException)
        {
            // Between closing and naming it was nobody's, and another process went on with it.
            return File.Exists(blob);
        }

        FileSystem.Instance.SyncFolder(Path.GetDirectoryName(blob)!);
        RemoveLeftovers();
        return true;
    }

    /// <summary>Asks again until all of it is there.</summary>
    private async Task ArriveAsync(FileStream stream, Uri address, CancellationToken cancellation)
    {
        for (int failures = 0; ;)
        {
            long before = stream.Length;
            try
            {
                await AppendAsync(stream, address, cancellation).ConfigureAwait(false);
                return;
            }
            catch (TransientFault fault)
            {
                failures = stream.Length - before >= WorthwhileProgress ? 1 : failures + 1;
                if (failures >= options.Attempts)
                {
                    throw new EspalierException(
                        $"The download of {file} of {id} broke off {failures} times ({fault.Message}); run it again, it goes on where it stopped.", fault);
                }

                await http.PauseAsync(failures, fault, cancellation).ConfigureAwait(false);
            }
        }
    }

    private async Task AppendAsync(FileStream stream, Uri address, CancellationToken cancellation)
    {
        if (remote.Size is long size && stream.Length >= size)
        {
            if (stream.Length == size && size > 0)
            {
                Report(size);
                return;
            }

            stream.SetLength(0);
        }

        long start = stream.Length;
        using HttpResponseMessage response = await http.SendAsync(HttpMethod.Get, address, start, null, cancellation).ConfigureAwait(false);
        bool continues = response.StatusCode == HttpStatusCode.PartialContent && response.Content.Headers.ContentRange?.From == start;
        if (!continues && start > 0 && (response.IsSuccessStatusCode || response.StatusCode == HttpStatusCode.RequestedRangeNotSatisfiable))
        {
            // The server does not go on from the middle, or what lies here is no part of the file.
            stream.SetLength(0);
            start = 0;
            if (response.StatusCode != HttpStatusCode.OK)
            {
                throw new TransientFault("the hub did not go on from the middle");
            }
        }

        http.Check(response, id, file);
        EspalierException.Require(
            remote.Size is null || response.Content.Headers.ContentLength is not long length || start + length == remote.Size,
            $"The hub promised {remote.Size} bytes for {file} of {id} but sends {start + (response.Content.Headers.ContentLength ?? 0)}; try again later or from another endpoint.");
        stream.Position = start;
        Report(start);
        await CopyAsync(response, stream, cancellation).ConfigureAwait(false);
    }

    private async Task CopyAsync(HttpResponseMessage response, FileStream stream, CancellationToken cancellation)
    {
        byte[] buffer = new byte[1 << 17];
        using var silence = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        try
        {
            using Stream body = await response.Content.ReadAsStreamAsync(cancellation).ConfigureAwait(false);
            while (true)
            {
                silence.CancelAfter(options.Silence);
                int count = await body.ReadAsync(buffer, silence.Token).ConfigureAwait(false);
                if (count == 0)
                {
                    break;
                }

                EspalierException.Require(
                    remote.Size is null || stream.Position + count <= remote.Size,
                    $"The hub sends more than the {remote.Size} bytes that it promised for {file} of {id}; try again later or from another endpoint.");
                WriteToDisk(stream, buffer.AsSpan(0, count));
                Report(stream.Position);
            }
        }
        catch (Exception fault) when (fault is IOException or HttpRequestException)
        {
            throw new TransientFault($"the connection was lost after {stream.Position} bytes", null, fault);
        }
        catch (OperationCanceledException fault) when (!cancellation.IsCancellationRequested)
        {
            throw new TransientFault($"nothing arrived for {options.Silence.TotalSeconds:0} seconds", null, fault);
        }

        if (remote.Size is long size && stream.Length < size)
        {
            throw new TransientFault($"only {stream.Length} of {size} bytes arrived");
        }
    }

    /// <summary>A disk's refusal must not look like a lost connection.</summary>
    private void WriteToDisk(FileStream stream, ReadOnlySpan<byte> bytes)
    {
        try
        {
            stream.Write(bytes);
        }
        catch (Exception fault) when (WriteFault.IsOne(fault))
        {
            throw WriteFault.For(blob, fault);
        }
    }

    /// <summary>Compares what lies on the disk with the hash that the hub names it by; other names cannot be compared.</summary>
    private async Task<bool> IsGenuineAsync(FileStream stream, CancellationToken cancellation)
    {
        stream.Flush();
        bool isHexadecimal = remote.ETag.All(char.IsAsciiHexDigit);
        stream.Position = 0;
        if (isHexadecimal && remote.ETag.Length == 64)
        {
            byte[] hash = await SHA256.HashDataAsync(stream, cancellation).ConfigureAwait(false);
            return Convert.ToHexString(hash).Equals(remote.ETag, StringComparison.OrdinalIgnoreCase);
        }

        if (isHexadecimal && remote.ETag.Length == 40)
        {
#pragma warning disable CA5350 // git names its files by SHA-1; it guards against damage here, not against forgery
            using var sha1 = IncrementalHash.CreateHash(HashAlgorithmName.SHA1);
#pragma warning restore CA5350
            sha1.AppendData(Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"blob {stream.Length}\0")));
            byte[] buffer = new byte[1 << 17];
            for (int count; (count = await stream.ReadAsync(buffer, cancellation).ConfigureAwait(false)) > 0;)
            {
                sha1.AppendData(buffer, 0, count);
            }

            return Convert.ToHexString(sha1.GetHashAndReset()).Equals(remote.ETag, StringComparison.OrdinalIgnoreCase);
        }

        return true;
    }

    /// <summary>
    /// A file to write into that nobody else writes: the longest that a broken-off run has left, else a new one. A lock shows that its
    /// owner lives; taking it under a name of our own guards also where locks are not told to other machines.
    /// </summary>
    private (FileStream Stream, string Path) Claim()
    {
        string mine = $"{blob}.{Guid.NewGuid():N}.incomplete";
        foreach (string path in Leftovers(blob).OrderByDescending(path => new FileInfo(path) is { Exists: true } info ? info.Length : 0))
        {
            FileStream? stream = null;
            try
            {
                stream = new FileStream(path, FileMode.Open, FileAccess.ReadWrite, Alone);
                File.Move(path, mine);
                return (stream, mine);
            }
            catch (Exception fault) when (WriteFault.IsOne(fault))
            {
                // Somebody is writing it, or has just finished.
                stream?.Dispose();
            }
        }

        for (int attempt = 1; ; attempt++)
        {
            try
            {
                return (new FileStream(mine, FileMode.CreateNew, FileAccess.ReadWrite, Alone), mine);
            }
            catch (IOException fault) when (attempt < MostRivals && IsTaken(fault))
            {
                // Made, but before it was locked another process saw it and took it for a leftover: another name.
                mine = $"{blob}.{Guid.NewGuid():N}.incomplete";
            }
            catch (Exception fault) when (WriteFault.IsOne(fault))
            {
                throw WriteFault.For(blob, fault);
            }
        }
    }

    // EWOULDBLOCK of Linux and of macOS, ERROR_SHARING_VIOLATION of Windows.
    private static bool IsTaken(IOException fault) => fault.HResult is 11 or 35 or unchecked((int)0x80070020);

    private static string[] Leftovers(string blob)
    {
        string folder = Path.GetDirectoryName(blob)!;
        return Directory.Exists(folder) ? Directory.GetFiles(folder, $"{Path.GetFileName(blob)}.*incomplete") : [];
    }

    private void RemoveLeftovers()
    {
        foreach (string path in Leftovers(blob))
        {
            try
            {
                using (new FileStream(path, FileMode.Open, FileAccess.ReadWrite, FileShare.None))
                {
                    // Nobody writes it any more.
                }

                File.Delete(path);
            }
            catch (Exception fault) when (WriteFault.IsOne(fault))
            {
                // Another process is still at it.
            }
        }
    }

    /// <summary>Progress counts each byte once, also when a part had to be fetched again.</summary>
    private void Report(long position)
    {
        if (position > reported)
        {
            advance(position - reported);
            reported = position;
        }
    }
}
