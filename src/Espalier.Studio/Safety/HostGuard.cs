using System.Net;
using Espalier.Studio.Api;
using Microsoft.AspNetCore.Http;

namespace Espalier.Studio.Safety;

/// <summary>On the loopback address only requests that name this machine are answered, so that no foreign page reaches the studio through a name of its own (DNS rebinding).</summary>
internal sealed class HostGuard(RequestDelegate next, StudioOptions options)
{
    public Task InvokeAsync(HttpContext context)
    {
        string host = context.Request.Host.Host.Trim('[', ']');
        bool here = host.Equals("localhost", StringComparison.OrdinalIgnoreCase) || (IPAddress.TryParse(host, out IPAddress? address) && IPAddress.IsLoopback(address));
        if (!options.IsLoopback || here)
        {
            return next(context);
        }

        context.Response.StatusCode = StatusCodes.Status421MisdirectedRequest;
        return context.Response.WriteAsJsonAsync(new ApiError("This studio answers on the loopback address only; open it as http://127.0.0.1 or http://localhost."));
    }
}
