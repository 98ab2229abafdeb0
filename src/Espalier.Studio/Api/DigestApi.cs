using Espalier.Studio.Digest;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace Espalier.Studio.Api;

/// <summary>Asks for the digest.</summary>
/// <param name="Address">An e-mail address.</param>
/// <param name="Pace">How often.</param>
public sealed record DigestWish(string Address, DigestPace Pace = DigestPace.Weekly);

internal static class DigestApi
{
    public static void Map(RouteGroupBuilder api, IEndpointRouteBuilder routes)
    {
        // The answer is the same whether an address is known or not: nobody learns who reads.
        api.MapPost("/digest", async (Postman postman, DigestWish wish, CancellationToken cancellation) =>
        {
            await postman.SubscribeAsync(wish.Address ?? "", wish.Pace, cancellation).ConfigureAwait(false);
            return TypedResults.Accepted((string?)null);
        }).RequireRateLimiting(StudioServer.StartsWork).WithTags("Digest").WithName("Subscribe").WithSummary("Asks for the digest; a mail asks the address's owner to confirm.");

        // The token in the link is the proof, so that mail programs can unsubscribe with one click (RFC 8058).
        routes.MapPost("/digest/do/confirm", (Subscriptions subscriptions, string id, string token) => Results.Redirect($"/digest/answer?act={(subscriptions.Confirm(id, token) ? "confirmed" : "wrong")}")).DisableAntiforgery().ExcludeFromDescription();
        routes.MapPost("/digest/do/unsubscribe", (Subscriptions subscriptions, string id, string token) => Results.Redirect($"/digest/answer?act={(subscriptions.Leave(id, token) ? "left" : "wrong")}")).DisableAntiforgery().ExcludeFromDescription();
    }
}
