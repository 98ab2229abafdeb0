using System.Collections.Frozen;
using System.Security.Cryptography;
using System.Text;
using Espalier.Reporting;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace Espalier.Studio;

/// <summary>Style, script and mark: embedded in the assembly, under names that change with their content.</summary>
internal sealed class StudioAssets
{
    private const string Prefix = "studio/";

    private readonly FrozenDictionary<string, (byte[] Bytes, string Type, string Version)> _files;

    public StudioAssets()
    {
        var files = new Dictionary<string, byte[]>(StringComparer.Ordinal)
        {
            // Charts look in the studio as they do in reports.
            ["report.css"] = Encoding.UTF8.GetBytes(PageStyle.Css),
        };
        foreach (string name in typeof(StudioAssets).Assembly.GetManifestResourceNames().Where(n => n.StartsWith(Prefix, StringComparison.Ordinal)))
        {
            using Stream stream = typeof(StudioAssets).Assembly.GetManifestResourceStream(name)!;
            using var memory = new MemoryStream();
            stream.CopyTo(memory);
            files[name[Prefix.Length..]] = memory.ToArray();
        }

        _files = files.ToFrozenDictionary(f => f.Key, f => (f.Value, TypeOf(f.Key), Convert.ToHexStringLower(SHA256.HashData(f.Value))[..12]), StringComparer.Ordinal);
    }

    /// <summary>The address of an asset.</summary>
    public string this[string name] => $"/assets/{name}?v={_files[name].Version}";

    public IResult Serve(string name, HttpContext context)
    {
        if (!_files.TryGetValue(name, out var file))
        {
            return Results.NotFound();
        }

        context.Response.Headers.CacheControl = context.Request.Query["v"] == file.Version ? "public, max-age=31536000, immutable" : "no-cache";
        return Results.Bytes(file.Bytes, file.Type, entityTag: new Microsoft.Net.Http.Headers.EntityTagHeaderValue($"\"{file.Version}\""));
    }

    private static string TypeOf(string name) => Path.GetExtension(name) switch
    {
        ".css" => "text/css; charset=utf-8",
        ".js" => "text/javascript; charset=utf-8",
        ".svg" => "image/svg+xml",
        _ => "application/octet-stream",
    };
}

internal static class StudioAssetsRoute
{
    public static void MapStudioAssets(this IEndpointRouteBuilder routes)
    {
        routes.MapGet("/assets/{name}", (string name, StudioAssets assets, HttpContext context) => assets.Serve(name, context)).ExcludeFromDescription();
        routes.MapGet("/favicon.ico", (StudioAssets assets, HttpContext context) => assets.Serve("mark.svg", context)).ExcludeFromDescription();
    }
}
