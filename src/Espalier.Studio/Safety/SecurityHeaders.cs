using Microsoft.AspNetCore.Http;

namespace Espalier.Studio.Safety;

/// <summary>Tells the browser to load nothing from elsewhere, run no script but the studio's, and show it in no one's frame.</summary>
internal sealed class SecurityHeaders(RequestDelegate next)
{
    // Styles may stand in attributes: charts colour their cells so. Scripts may not.
    private const string Policy = "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

    public Task InvokeAsync(HttpContext context)
    {
        IHeaderDictionary headers = context.Response.Headers;
        headers.ContentSecurityPolicy = Policy;
        headers.XContentTypeOptions = "nosniff";
        headers["Referrer-Policy"] = "no-referrer";
        headers["Cross-Origin-Opener-Policy"] = "same-origin";
        headers["Cross-Origin-Resource-Policy"] = "same-origin";
        headers["Permissions-Policy"] = "camera=(), microphone=(), geolocation=()";
        if (!context.Request.Path.StartsWithSegments("/assets"))
        {
            headers.CacheControl = "no-store";
        }

        return next(context);
    }
}
