using Microsoft.AspNetCore.Http;

namespace Espalier.Studio.Layout;

/// <summary>A page whose subject is not there answers 404 with what it has to say itself.</summary>
internal static class NotThere
{
    /// <summary>Marks the answer of the request that is being rendered.</summary>
    /// <remarks>Only when the answer begins: a page that has the status earlier is not written by Blazor, which then waits for another to be shown in its place.</remarks>
    public static void Mark(IHttpContextAccessor accessor)
    {
        HttpResponse response = accessor.HttpContext!.Response;
        response.OnStarting(() =>
        {
            response.StatusCode = StatusCodes.Status404NotFound;
            return Task.CompletedTask;
        });
    }
}
