using System.Security.Cryptography;
using System.Text;
using Espalier.Studio.Api;
using Microsoft.AspNetCore.Antiforgery;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace Espalier.Studio.Safety;

/// <summary>Where a token is demanded: a script shows it as <c>Authorization: Bearer</c>, a browser once on the sign-in page, which then leaves a cookie that is not the token.</summary>
internal sealed class TokenGate(RequestDelegate next, StudioOptions options)
{
    private const string Cookie = "espalier-session";

    // A new key with every start: an old cookie is worth nothing.
    private static readonly byte[] Key = RandomNumberGenerator.GetBytes(32);

    public Task InvokeAsync(HttpContext context)
    {
        PathString path = context.Request.Path;
        bool open = path.StartsWithSegments("/sign-in") || path.StartsWithSegments("/assets") || path == "/favicon.ico" || path == "/digest/answer" || path.StartsWithSegments("/digest/do");
        if (options.Token is null || open || Knows(context, options.Token))
        {
            return next(context);
        }

        if (path.StartsWithSegments("/api") || path.StartsWithSegments("/openapi"))
        {
            context.Response.StatusCode = StatusCodes.Status401Unauthorized;
            context.Response.Headers.WWWAuthenticate = "Bearer";
            return context.Response.WriteAsJsonAsync(new ApiError("The studio asks for its token; send it as Authorization: Bearer TOKEN."));
        }

        context.Response.Redirect("/sign-in");
        return Task.CompletedTask;
    }

    internal static bool Same(string given, string wanted) =>
        CryptographicOperations.FixedTimeEquals(SHA256.HashData(Encoding.UTF8.GetBytes(given)), SHA256.HashData(Encoding.UTF8.GetBytes(wanted)));

    internal static void SignIn(HttpContext context, string token) =>
        context.Response.Cookies.Append(Cookie, Session(token), new CookieOptions { HttpOnly = true, SameSite = SameSiteMode.Strict, Secure = context.Request.IsHttps, IsEssential = true });

    private static bool Knows(HttpContext context, string token)
    {
        string header = context.Request.Headers.Authorization.ToString();
        return header.StartsWith("Bearer ", StringComparison.Ordinal)
            ? Same(header["Bearer ".Length..].Trim(), token)
            : context.Request.Cookies[Cookie] is { } cookie && Same(cookie, Session(token));
    }

    private static string Session(string token) => Convert.ToHexStringLower(HMACSHA256.HashData(Key, Encoding.UTF8.GetBytes(token)));
}

internal static class TokenGateRoute
{
    public static void MapTokenGate(this IEndpointRouteBuilder routes) =>
        routes.MapPost("/sign-in/token", async (HttpContext context, StudioOptions options, IAntiforgery antiforgery) =>
        {
            if (!await antiforgery.IsRequestValidAsync(context).ConfigureAwait(false))
            {
                return Results.BadRequest(new ApiError("The sign-in page was too old; load it again."));
            }

            IFormCollection form = await context.Request.ReadFormAsync().ConfigureAwait(false);
            if (options.Token is null || !TokenGate.Same(form["token"].ToString(), options.Token))
            {
                return Results.Redirect("/sign-in?wrong=1");
            }

            TokenGate.SignIn(context, options.Token);
            return Results.Redirect("/");
        }).DisableAntiforgery().RequireRateLimiting(StudioServer.StartsWork).ExcludeFromDescription();
}
