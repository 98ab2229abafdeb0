using Espalier.Studio.Api;
using Microsoft.AspNetCore.Antiforgery;
using Microsoft.AspNetCore.Http;

namespace Espalier.Studio.Safety;

/// <summary>
/// Keeps foreign pages from changing anything: a browser must show the token that the studio's own pages hold; a script,
/// which sends neither origin nor cookies, must send JSON.
/// </summary>
internal sealed class ApiGuard(RequestDelegate next, IAntiforgery antiforgery)
{
    /// <summary>The header that carries the token of the page.</summary>
    public const string Header = "X-Espalier-Form";

    public async Task InvokeAsync(HttpContext context)
    {
        HttpRequest request = context.Request;
        bool changes = !HttpMethods.IsGet(request.Method) && !HttpMethods.IsHead(request.Method) && !HttpMethods.IsOptions(request.Method);
        if (!changes || !request.Path.StartsWithSegments("/api"))
        {
            await next(context).ConfigureAwait(false);
            return;
        }

        bool browser = request.Headers.Origin.Count > 0 || request.Headers.ContainsKey("Sec-Fetch-Site") || request.Headers.Cookie.Count > 0;
        if (browser && !await antiforgery.IsRequestValidAsync(context).ConfigureAwait(false))
        {
            context.Response.StatusCode = StatusCodes.Status403Forbidden;
            await context.Response.WriteAsJsonAsync(new ApiError("This request does not come from a page of the studio, or the studio was started anew since; load the page again.")).ConfigureAwait(false);
            return;
        }

        if (request.ContentLength is null or > 0 && !request.HasJsonContentType() && request.Headers.ContentLength is not null)
        {
            context.Response.StatusCode = StatusCodes.Status415UnsupportedMediaType;
            await context.Response.WriteAsJsonAsync(new ApiError("The API reads JSON; send the header Content-Type: application/json.")).ConfigureAwait(false);
            return;
        }

        await next(context).ConfigureAwait(false);
    }
}
