using System.Net;
using System.Net.Http.Headers;
using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>A failure that may pass: a dropped connection, a hub that is busy.</summary>
/// <param name="message">What happened, as a part of a sentence.</param>
/// <param name="retryAfter">How long the hub asked to wait; null when it did not.</param>
/// <param name="inner">What the system said.</param>
internal sealed class TransientFault(string message, TimeSpan? retryAfter = null, Exception? inner = null) : Exception(message, inner)
{
    /// <summary>How long the hub asked to wait; null when it did not.</summary>
    public TimeSpan? RetryAfter { get; } = retryAfter;
}

/// <summary>
/// Requests to the hub. Redirects are followed here and not by the framework, because the token goes to the hub's own host only
/// and the answers on the way carry what is known of a file.
/// </summary>
internal sealed class HubHttp : IDisposable
{
    private const int MaximumRedirects = 10;
    private static readonly TimeSpan LongestWait = TimeSpan.FromMinutes(5);

    private readonly HubOptions options;
    private readonly Uri endpoint;
    private readonly HttpClient client;

    /// <summary>Makes a client; nothing is sent yet.</summary>
    public HubHttp(HubOptions options)
    {
        this.options = options;
        endpoint = new Uri(options.Endpoint);
        client = new HttpClient(new SocketsHttpHandler
        {
            AllowAutoRedirect = false,
            AutomaticDecompression = DecompressionMethods.None,
            UseCookies = false,
            ConnectTimeout = TimeSpan.FromSeconds(10),
        })
        {
            Timeout = Timeout.InfiniteTimeSpan,
            MaxResponseContentBufferSize = 64 << 20,
        };
        string version = typeof(HubHttp).Assembly.GetName().Version?.ToString(3) ?? "0";
        client.DefaultRequestHeaders.UserAgent.Add(new ProductInfoHeaderValue("espalier", version));
    }

    /// <summary>Sends one request and follows redirects.</summary>
    /// <param name="method">GET or HEAD.</param>
    /// <param name="address">Where to.</param>
    /// <param name="from">The first byte wanted; 0 for the whole.</param>
    /// <param name="stopAt">Whether a redirect already says enough; null follows all.</param>
    /// <param name="cancellation">Ends the wait.</param>
    /// <returns>The answer, whatever its status, with its headers read.</returns>
    /// <exception cref="TransientFault">When no answer came.</exception>
    public async Task<HttpResponseMessage> SendAsync(
        HttpMethod method, Uri address, long from, Func<HttpResponseMessage, bool>? stopAt, CancellationToken cancellation)
    {
        for (int hop = 0; hop <= MaximumRedirects; hop++)
        {
            HttpResponseMessage response = await SendOnceAsync(method, address, from, cancellation).ConfigureAwait(false);
            if (!IsRedirect(response.StatusCode) || response.Headers.Location is not Uri location || stopAt?.Invoke(response) == true)
            {
                return response;
            }

            response.Dispose();
            var next = new Uri(address, location);
            EspalierException.Require(
                next.Scheme == "https" || (next.Scheme == "http" && address.Scheme == "http"),
                $"The hub at {options.Endpoint} redirects {address.AbsolutePath} to {next.Scheme}://{next.Authority}, which is not encrypted; this is refused.");
            address = next;
        }

        throw new EspalierException($"The hub at {options.Endpoint} redirects {address.AbsolutePath} in a circle; try another endpoint (HF_ENDPOINT).");
    }

    /// <summary>Does something that may fail for a while, with growing pauses between the tries.</summary>
    /// <param name="action">What is tried.</param>
    /// <param name="attempts">How often at most.</param>
    /// <param name="cancellation">Ends it.</param>
    /// <exception cref="TransientFault">When the last try failed too.</exception>
    public async Task<T> RetryAsync<T>(Func<Task<T>> action, int attempts, CancellationToken cancellation)
    {
        for (int attempt = 1; ; attempt++)
        {
            try
            {
                return await action().ConfigureAwait(false);
            }
            catch (TransientFault fault) when (attempt < attempts)
            {
                await PauseAsync(attempt, fault, cancellation).ConfigureAwait(false);
            }
        }
    }

    /// <summary>Waits before the next try: as long as the hub asked, else longer each time.</summary>
    public Task PauseAsync(int attempt, TransientFault fault, CancellationToken cancellation)
    {
        TimeSpan pause = fault.RetryAfter ?? options.BackOff(attempt);
        return options.Wait(pause > LongestWait ? LongestWait : pause, cancellation);
    }

    /// <summary>Throws for an answer that is not what was asked for.</summary>
    /// <param name="response">The answer.</param>
    /// <param name="id">The repository it is about.</param>
    /// <param name="file">The file it is about; null for the repository itself.</param>
    /// <exception cref="TransientFault">When trying again may help.</exception>
    /// <exception cref="EspalierException">When it will not; the sentence says what to do.</exception>
    public void Check(HttpResponseMessage response, RepositoryId id, string? file)
    {
        if (response.IsSuccessStatusCode || IsRedirect(response.StatusCode))
        {
            return;
        }

        int status = (int)response.StatusCode;
        if (status is 408 or 429 or >= 500)
        {
            throw new TransientFault($"the hub answered {status}", RetryAfter(response));
        }

        string code = Header(response, "X-Error-Code") ?? string.Empty;
        string page = $"{options.Endpoint}/{id.AddressName}";
        string what = file is null ? id.ToString() : $"{file} of {id}";
        throw new EspalierException((status, code) switch
        {
            (_, "GatedRepo") => options.Token is null
                ? $"{id} is gated: accept its terms at {page}, make a token there and set HF_TOKEN to it."
                : $"{id} is gated and your token may not read it yet: accept its terms at {page} with the account of the token.",
            (_, "RevisionNotFound") => $"{id.Name} has no revision '{id.Revision}'; see {page} for its branches and tags.",
            (401, _) when options.Token is null =>
                $"The hub does not show {what}: either the name is wrong, or it is private or gated and needs a token; check {page}, or set HF_TOKEN.",
            (401, _) => $"The hub refused the token for {what}: it is wrong or expired, or the name is; make a new one and set HF_TOKEN, or check {page}.",
            (403, _) => $"The token in use may not read {what}; accept the terms at {page}, or use a token that has the right to.",
            (404, _) when file is null => $"There is no {(id.Kind == RepositoryKind.Model ? "model" : "data set")} {id.Name} with a revision '{id.Revision}' at {options.Endpoint}; check the spelling.",
            (404, _) => $"The hub no longer has {what}; run it again to see the repository as it is now.",
            _ => $"The hub at {options.Endpoint} answered {status} for {what}; try again later.",
        });
    }

    /// <summary>The first value of a header; null when there is none.</summary>
    public static string? Header(HttpResponseMessage response, string name) =>
        response.Headers.TryGetValues(name, out IEnumerable<string>? values) ? values.FirstOrDefault() : null;

    /// <summary>Whether a status sends elsewhere.</summary>
    public static bool IsRedirect(HttpStatusCode status) => (int)status is 301 or 302 or 303 or 307 or 308;

    /// <summary>Closes the connections.</summary>
    public void Dispose() => client.Dispose();

    private async Task<HttpResponseMessage> SendOnceAsync(HttpMethod method, Uri address, long from, CancellationToken cancellation)
    {
        using var request = new HttpRequestMessage(method, address);
        if (from > 0)
        {
            request.Headers.Range = new RangeHeaderValue(from, null);
        }

        bool isHub = address.Scheme == endpoint.Scheme && address.Authority == endpoint.Authority;
        if (isHub && options.Token is not null)
        {
            // Not validated: a token that a proxy made up is not ours to judge.
            request.Headers.TryAddWithoutValidation("Authorization", $"Bearer {options.Token}");
        }

        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(options.Silence);
        try
        {
            return await client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, limit.Token).ConfigureAwait(false);
        }
        catch (HttpRequestException fault)
        {
            throw new TransientFault($"no connection to {address.Authority} ({fault.Message.TrimEnd('.')})", null, fault);
        }
        catch (OperationCanceledException fault) when (!cancellation.IsCancellationRequested)
        {
            throw new TransientFault($"no answer from {address.Authority} for {options.Silence.TotalSeconds:0} seconds", null, fault);
        }
    }

    private static TimeSpan? RetryAfter(HttpResponseMessage response)
    {
        TimeSpan? pause = response.Headers.RetryAfter?.Delta ?? (response.Headers.RetryAfter?.Date - DateTimeOffset.UtcNow);
        return pause > TimeSpan.Zero ? pause : null;
    }
}
