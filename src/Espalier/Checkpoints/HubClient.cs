using System.Globalization;
using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>
/// Brings repositories of the hub into the cache and says where they lie. Only files that are missing are downloaded, several at once,
/// each checked by size and hash; a run that was broken off goes on where it stopped.
/// </summary>
public sealed class HubClient : IDisposable
{
    private readonly HubOptions options;
    private readonly HubHttp http;
    private readonly HubCache cache;

    /// <summary>Makes a client; nothing is sent yet.</summary>
    /// <param name="options">Where hub and cache are.</param>
    public HubClient(HubOptions options)
    {
        this.options = options;
        http = new HubHttp(options);
        cache = new HubCache(options.CacheFolder, options.SymbolicLinks);
    }

    /// <summary>The folder of a repository's files, downloaded where they are not in the cache yet.</summary>
    /// <param name="id">The repository and its revision.</param>
    /// <param name="progress">Told the bytes that arrive.</param>
    /// <param name="wanted">Which files; null takes a model's safetensors, JSON and tokeniser files, or all of a data set but code.</param>
    /// <param name="cancellation">Ends the download; what has arrived is kept.</param>
    /// <returns>A snapshot's folder; it may hold more files than were wanted.</returns>
    /// <exception cref="EspalierException">When it cannot be had; the sentence says why and what to do.</exception>
    public async Task<string> ResolveAsync(
        RepositoryId id, IProgressSink progress, Func<string, bool>? wanted = null, CancellationToken cancellation = default)
    {
        string? cached = cache.Find(id);
        if (options.Offline)
        {
            return cached ?? throw new EspalierException(
                $"{id} is not in the cache {options.CacheFolder}, and HF_HUB_OFFLINE forbids downloading it; unset it, or set HF_HUB_CACHE to the folder that has it.");
        }

        RepositoryListing listing;
        try
        {
            // With something to fall back on, nobody wants to wait for a hub that is down.
            int attempts = cached is null ? options.Attempts : Math.Min(2, options.Attempts);
            listing = await http.RetryAsync(() => ListAsync(id, cancellation), attempts, cancellation).ConfigureAwait(false);
        }
        catch (TransientFault fault) when (cached is not null)
        {
            progress.Warn($"The hub cannot be reached ({fault.Message}); {id} is taken from the cache as it was last seen.");
            return cached;
        }
        catch (TransientFault fault)
        {
            throw new EspalierException(
                $"{id} is not in the cache and the hub at {options.Endpoint} cannot be reached ({fault.Message}); check the network, or give a folder.", fault);
        }

        string[] files = Wanted(id, listing, wanted);
        string snapshot = cache.Snapshot(id, listing.Commit);
        await FetchAsync(id, listing.Commit, snapshot, files.Where(file => !File.Exists(Path.Combine(snapshot, file))).ToArray(), progress, cancellation)
            .ConfigureAwait(false);
        cache.Remember(id, listing.Commit);
        return snapshot;
    }

    /// <summary>Closes the connections.</summary>
    public void Dispose() => http.Dispose();

    private static string[] Wanted(RepositoryId id, RepositoryListing listing, Func<string, bool>? wanted)
    {
        IEnumerable<string> chosen = wanted is not null ? listing.Files.Where(wanted)
            : id.Kind == RepositoryKind.Model ? HubFiles.OfModel(id, listing.Files)
            : listing.Files.Where(HubFiles.IsOfDataset);
        string[] files = chosen.Distinct().ToArray();
        Array.ForEach(files, file => HubFiles.CheckName(id, file));
        EspalierException.Require(files.Length > 0, $"{id} has none of the files that are wanted; look at what it holds on the hub.");
        return files;
    }

    private async Task<RepositoryListing> ListAsync(RepositoryId id, CancellationToken cancellation)
    {
        var address = new Uri($"{options.Endpoint}/api/{id.Plural}/{id.Name}/revision/{Uri.EscapeDataString(id.Revision)}");
        using HttpResponseMessage response = await http.SendAsync(HttpMethod.Get, address, 0, null, cancellation).ConfigureAwait(false);
        http.Check(response, id, null);
        try
        {
            byte[] json = await response.Content.ReadAsByteArrayAsync(cancellation).WaitAsync(options.Silence, cancellation).ConfigureAwait(false);
            return RepositoryListing.Parse(id, options.Endpoint, json);
        }
        catch (Exception fault) when (fault is HttpRequestException or IOException or TimeoutException)
        {
            throw new TransientFault("its answer broke off", null, fault);
        }
    }

    private async Task FetchAsync(
        RepositoryId id, string commit, string snapshot, string[] missing, IProgressSink progress, CancellationToken cancellation)
    {
        if (missing.Length == 0)
        {
            return;
        }

        var remotes = new RemoteFile[missing.Length];
        await EachAsync(missing, async index => remotes[index] = await AskAsync(id, commit, missing[index], cancellation).ConfigureAwait(false), cancellation)
            .ConfigureAwait(false);
        CheckSpace(id, remotes);
        using IProgressTask task = progress.Begin($"downloading {id}", remotes.Sum(remote => remote.Size ?? 0), "B");
        await EachAsync(
            missing,
            async index =>
            {
                (string file, RemoteFile remote) = (missing[index], remotes[index]);
                string blob = cache.Blob(id, remote.ETag);
                if (File.Exists(blob) && (remote.Size is null || new FileInfo(blob).Length == remote.Size))
                {
                    task.Advance(remote.Size ?? 0);
                }
                else
                {
                    task.Describe(file);
                    var download = new BlobDownload(http, options, id, file, remote, blob, bytes => task.Advance(bytes));
                    await download.RunAsync(Address(id, commit, file), cancellation).ConfigureAwait(false);
                }

                Guarded(Path.Combine(snapshot, file), () => cache.Place(snapshot, file, blob));
            },
            cancellation).ConfigureAwait(false);
    }

    /// <summary>Runs something for every file, several at once; the first failure ends the others.</summary>
    private Task EachAsync(string[] files, Func<int, Task> action, CancellationToken cancellation) => Parallel.ForEachAsync(
        Enumerable.Range(0, files.Length),
        new ParallelOptions { MaxDegreeOfParallelism = Math.Max(1, options.ParallelFiles), CancellationToken = cancellation },
        async (index, _) => await action(index).ConfigureAwait(false));

    /// <summary>Asks for a file's hash and size. They come with the hub's own answer, before it redirects to where the content lies.</summary>
    private async Task<RemoteFile> AskAsync(RepositoryId id, string commit, string file, CancellationToken cancellation)
    {
        try
        {
            return await http.RetryAsync(AskOnceAsync, options.Attempts, cancellation).ConfigureAwait(false);
        }
        catch (TransientFault fault)
        {
            throw new EspalierException($"The hub says nothing of {file} of {id} ({fault.Message}); run it again later.", fault);
        }

        async Task<RemoteFile> AskOnceAsync()
        {
            using HttpResponseMessage response = await http.SendAsync(
                HttpMethod.Head, Address(id, commit, file), 0, redirect => HubHttp.Header(redirect, "X-Linked-Etag") is not null, cancellation).ConfigureAwait(false);
            http.Check(response, id, file);
            string? etag = HubHttp.Header(response, "X-Linked-Etag") ?? HubHttp.Header(response, "ETag");
            EspalierException.Require(etag is not null, $"The hub at {options.Endpoint} names no hash for {file} of {id}; check HF_ENDPOINT and any proxy in between.");
            long? size = long.TryParse(HubHttp.Header(response, "X-Linked-Size"), NumberStyles.None, CultureInfo.InvariantCulture, out long linked) ? linked
                : HubHttp.IsRedirect(response.StatusCode) ? null
                : response.Content.Headers.ContentLength;
            return new RemoteFile(Plain(etag), size);
        }
    }

    private static string Plain(string etag) => (etag.StartsWith("W/", StringComparison.Ordinal) ? etag[2..] : etag).Trim('"');

    private Uri Address(RepositoryId id, string commit, string file) =>
        new($"{options.Endpoint}/{id.AddressName}/resolve/{commit}/{string.Join('/', file.Split('/').Select(Uri.EscapeDataString))}");

    private void CheckSpace(RepositoryId id, RemoteFile[] remotes)
    {
        long needed = 0;
        foreach (RemoteFile remote in remotes.DistinctBy(remote => remote.ETag))
        {
            string blob = cache.Blob(id, remote.ETag);
            needed += File.Exists(blob) ? 0 : Math.Max(0, (remote.Size ?? 0) - BlobDownload.BytesAtHand(blob));
        }

        Guarded(options.CacheFolder, () => Directory.CreateDirectory(options.CacheFolder));
        long free = options.FreeSpace(options.CacheFolder);
        EspalierException.Require(
            needed <= free,
            $"{id} needs {Text.Bytes(needed)} more on the disk of {options.CacheFolder}, which has {Text.Bytes(free)} free; make room, or set HF_HUB_CACHE to a folder on another disk.");
    }

    private static void Guarded(string path, Action action)
    {
        try
        {
            action();
        }
        catch (Exception fault) when (WriteFault.IsOne(fault))
        {
            throw WriteFault.For(path, fault);
        }
    }
}
