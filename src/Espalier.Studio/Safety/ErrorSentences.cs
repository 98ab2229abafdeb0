using Espalier.Runtime;
using Espalier.Studio.Api;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace Espalier.Studio.Safety;

/// <summary>What goes wrong under <c>/api</c> is answered in a sentence; nothing of the inside is shown.</summary>
internal sealed class ErrorSentences(RequestDelegate next, ILogger<ErrorSentences> log)
{
    public async Task InvokeAsync(HttpContext context)
    {
        try
        {
            await next(context).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (context.RequestAborted.IsCancellationRequested)
        {
            // The reader has left.
        }
        catch (Exception fault) when (!context.Response.HasStarted)
        {
            (int code, string sentence) = fault switch
            {
                EspalierException => (StatusCodes.Status400BadRequest, fault.Message),
                BadHttpRequestException bad => (bad.StatusCode, bad.StatusCode == StatusCodes.Status413PayloadTooLarge ? "The request is larger than the studio reads (256 KiB)." : "The request cannot be read; the page /api says what is expected."),
                _ => (StatusCodes.Status500InternalServerError, "Something went wrong inside the studio; its terminal says what."),
            };
            if (code == StatusCodes.Status500InternalServerError)
            {
                log.LogError(fault, "{Method} {Path} failed", context.Request.Method, context.Request.Path.Value);
            }

            context.Response.Clear();
            context.Response.StatusCode = code;
            if (context.Request.Path.StartsWithSegments("/api"))
            {
                await context.Response.WriteAsJsonAsync(new ApiError(sentence)).ConfigureAwait(false);
            }
            else
            {
                context.Response.ContentType = "text/plain; charset=utf-8";
                await context.Response.WriteAsync(sentence).ConfigureAwait(false);
            }
        }
    }
}
