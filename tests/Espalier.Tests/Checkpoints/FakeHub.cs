using System.Collections.Concurrent;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;

namespace Espalier.Tests.Checkpoints;

/// <summary>One request as the hub or its content server saw it.</summary>
/// <param name="Server">"hub" or "cdn".</param>
/// <param name="Method">GET or HEAD.</param>
/// <param name="Path">The path, unescaped.</param>
/// <param name="Range">The Range header, or null.</param>
/// <param name="Authorization">The Authorization header, or null.</param>
internal sealed record SeenRequest(string Server, string Method, string Path, string? Range, string? Authorization);

/// <summary>
/// A hub on the loopback with a content server on another port, where large files (*.safetensors, *.parquet) are redirected to.
/// Tests put their mischief into <see cref="Mischief"/>.
/// </summary>
internal sealed class FakeHub : IDisposable
{
    public const string Commit = "0123456789abcdef0123456789abcdef01234567";

    private readonly HttpListener hub;
    private readonly HttpListener cdn;

    public FakeHub()
    {
        (hub, Endpoint) = Listen();
        (cdn, CdnEndpoint) = Listen();
        _ = ServeAsync(hub, "hub");
        _ = ServeAsync(cdn, "cdn");
    }

    /// <summary>The files by name; every repository has the same.</summary>
    public Dictionary<string, byte[]> Files { get; } = [];

    public string Endpoint { get; }

    public string CdnEndpoint { get; }

    public ConcurrentQueue<SeenRequest> Seen { get; } = new();

    /// <summary>Answers a request in its own way and returns true, or leaves it to the hub.</summary>
    public Func<SeenRequest, HttpListenerResponse, bool> Mischief { get; set; } = (_, _) => false;

    /// <summary>The hash that the hub gives out for a file; lies replace it.</summary>
    public Func<string, string> HashOf { get; set; } = _ => string.Empty;

    /// <summary>The size that the hub gives out for a large file; lies replace it.</summary>
    public Func<string, long> SizeOf { get; set; } = _ => -1;

    /// <summary>Whether files over a content server of their own.</summary>
    public static bool IsLarge(string file) => file.EndsWith(".safetensors", StringComparison.Ordinal) || file.EndsWith(".parquet", StringComparison.Ordinal);

    /// <summary>Answers with a status and, perhaps, a header.</summary>
    public static bool Answer(HttpListenerResponse response, int status, string? header = null, string? value = null)
    {
        response.StatusCode = status;
        if (header is not null)
        {
            response.Headers[header] = value;
        }

        response.Close();
        return true;
    }

    /// <summary>Sends the first bytes of a longer body, then drops the connection.</summary>
    public static bool Drop(HttpListenerResponse response, byte[] body, int from, int after)
    {
        response.StatusCode = from > 0 ? 206 : 200;
        if (from > 0)
        {
            response.Headers["Content-Range"] = $"bytes {from}-{body.Length - 1}/{body.Length}";
        }

        response.ContentLength64 = body.Length - from;
        response.OutputStream.Write(body, from, after);
        response.OutputStream.Flush();
        response.Abort();
        return true;
    }

    public static string Sha256(byte[] content) => Convert.ToHexStringLower(SHA256.HashData(content));

    public static string GitSha1(byte[] content) =>
        Convert.ToHexStringLower(SHA1.HashData([.. Encoding.ASCII.GetBytes($"blob {content.Length}\0"), .. content]));

    public void Dispose()
    {
        hub.Close();
        cdn.Close();
    }

    private static (HttpListener Listener, string Endpoint) Listen()
    {
        for (int attempt = 0; ; attempt++)
        {
            using var probe = new TcpListener(IPAddress.Loopback, 0);
            probe.Start();
            int port = ((IPEndPoint)probe.LocalEndpoint).Port;
            probe.Stop();
            var listener = new HttpListener();
            listener.Prefixes.Add($"http://127.0.0.1:{port}/");
            try
            {
                listener.Start();
                return (listener, $"http://127.0.0.1:{port}");
            }
            catch (HttpListenerException) when (attempt < 10)
            {
                // Somebody else took the port.
            }
        }
    }

    private async Task ServeAsync(HttpListener listener, string server)
    {
        while (true)
        {
            HttpListenerContext context;
            try
            {
                context = await listener.GetContextAsync();
            }
            catch (Exception fault) when (fault is HttpListenerException or ObjectDisposedException or InvalidOperationException)
            {
                return;
            }

            _ = Task.Run(() => Handle(context, server));
        }
    }

    private void Handle(HttpListenerContext context, string server)
    {
        HttpListenerRequest request = context.Request;
        var seen = new SeenRequest(
            server, request.HttpMethod, Uri.UnescapeDataString(request.RawUrl!), request.Headers["Range"], request.Headers["Authorization"]);
        Seen.Enqueue(seen);
        try
        {
            if (!Mischief(seen, context.Response))
            {
                Serve(seen, context.Response);
            }
        }
        catch (Exception fault) when (fault is HttpListenerException or IOException or ObjectDisposedException or InvalidOperationException)
        {
            context.Response.Abort();
        }
    }

    private void Serve(SeenRequest request, HttpListenerResponse response)
    {
        if (request.Path.StartsWith("/api/", StringComparison.Ordinal))
        {
            Send(response, JsonSerializer.SerializeToUtf8Bytes(new { sha = Commit, siblings = Files.Keys.Select(name => new { rfilename = name }) }), request);
            return;
        }

        string file = request.Server == "cdn" ? request.Path[1..] : request.Path[(request.Path.IndexOf(Commit, StringComparison.Ordinal) + Commit.Length + 1)..];
        if (!Files.TryGetValue(file, out byte[]? content))
        {
            Answer(response, 404);
            return;
        }

        string lie = HashOf(file);
        if (request.Server == "hub" && IsLarge(file))
        {
            response.Headers["X-Linked-Etag"] = $"\"{(lie.Length > 0 ? lie : Sha256(content))}\"";
            response.Headers["X-Linked-Size"] = (SizeOf(file) >= 0 ? SizeOf(file) : content.Length).ToString(CultureInfo.InvariantCulture);
            Answer(response, 302, "Location", $"{CdnEndpoint}/{file}");
            return;
        }

        response.Headers["ETag"] = $"\"{(lie.Length > 0 ? lie : GitSha1(content))}\"";
        Send(response, content, request);
    }

    private static void Send(HttpListenerResponse response, byte[] content, SeenRequest request)
    {
        int from = request.Range is null ? 0 : int.Parse(request.Range.AsSpan()["bytes=".Length..^1], CultureInfo.InvariantCulture);
        if (from > 0)
        {
            if (from >= content.Length)
            {
                Answer(response, 416);
                return;
            }

            response.StatusCode = 206;
            response.Headers["Content-Range"] = $"bytes {from}-{content.Length - 1}/{content.Length}";
        }

        response.ContentLength64 = content.Length - from;
        if (request.Method != "HEAD")
        {
            response.OutputStream.Write(content, from, content.Length - from);
        }

        response.Close();
    }
}
