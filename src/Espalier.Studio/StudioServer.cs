using System.Text.Json;
using System.Text.Json.Serialization;
using System.Threading.RateLimiting;
using Espalier.Runtime;
using Espalier.Studio.Api;
using Espalier.Studio.Digest;
using Espalier.Studio.Layout;
using Espalier.Studio.Models;
using Espalier.Studio.Runs;
using Espalier.Studio.Safety;
using Espalier.Studio.Systems;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.DataProtection;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

namespace Espalier.Studio;

/// <summary>The studio as a web server that a command or a test starts and stops.</summary>
public sealed class StudioServer : IAsyncDisposable
{
    /// <summary>The rate limit of requests that start work.</summary>
    internal const string StartsWork = "starts-work";

    // The largest body of a request: plans and prompts are text.
    private const long MostBytes = 256 * 1024;

    private readonly WebApplication _app;

    private StudioServer(WebApplication app, StudioOptions options) => (_app, Options) = (app, options);

    /// <summary>What it was started with.</summary>
    public StudioOptions Options { get; }

    /// <summary>Where it is reached ("http://127.0.0.1:7171").</summary>
    public Uri Address => new(_app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.First());

    internal IServiceProvider Services => _app.Services;

    /// <summary>Starts the studio.</summary>
    /// <param name="options">How and where.</param>
    /// <param name="log">Receives warnings and errors; null keeps them to itself.</param>
    /// <param name="cancellation">Ends the start.</param>
    /// <exception cref="EspalierException">For options that are not safe, or a port that is taken.</exception>
    public static async Task<StudioServer> StartAsync(StudioOptions options, Action<string>? log = null, CancellationToken cancellation = default)
    {
        options.Validate();
        WebApplication app = Build(options, log);
        try
        {
            await app.StartAsync(cancellation).ConfigureAwait(false);
        }
        catch (IOException fault) when (fault.InnerException is Microsoft.AspNetCore.Connections.AddressInUseException)
        {
            await app.DisposeAsync().ConfigureAwait(false);
            throw new EspalierException($"Port {options.Port} of {options.Host} is taken, perhaps by another studio; give another with --port, or 0 for any free one.", fault);
        }

        return new StudioServer(app, options);
    }

    /// <summary>Waits until the studio is asked to stop.</summary>
    public Task WaitAsync(CancellationToken cancellation) => _app.WaitForShutdownAsync(cancellation);

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _app.StopAsync().ConfigureAwait(false);
        await _app.DisposeAsync().ConfigureAwait(false);
    }

    private static WebApplication Build(StudioOptions options, Action<string>? log)
    {
        WebApplicationBuilder builder = WebApplication.CreateSlimBuilder(new WebApplicationOptions { ContentRootPath = AppContext.BaseDirectory, ApplicationName = typeof(StudioServer).Assembly.GetName().Name });
        builder.Configuration.Sources.Clear();
        builder.Logging.ClearProviders();
        builder.Logging.AddProvider(new StudioLog(log));
        builder.WebHost.UseKestrelHttpsConfiguration();
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Limits.MaxRequestBodySize = MostBytes;
            kestrel.Limits.MaxRequestHeadersTotalSize = 16 * 1024;
            kestrel.Listen(options.Address!, options.Port, listen =>
            {
                if (options.LoadCertificate() is { } certificate)
                {
                    listen.UseHttps(certificate);
                }
            });
        });

        IServiceCollection services = builder.Services;
        services.Configure<HostOptions>(host => host.ShutdownTimeout = TimeSpan.FromSeconds(3));
        services.AddSingleton(options);
        services.AddSingleton(TimeProvider.System);
        services.AddSingleton<StudioAssets>();
        services.AddSingleton<SystemLibrary>();
        services.AddSingleton<ModelShelf>();
        services.AddSingleton<TextBench>();
        services.AddSingleton<ToolProcess>();
        services.AddSingleton<DoctorVisit>();
        services.AddSingleton<RunShelf>();
        services.AddSingleton<RunFeed>();
        services.AddSingleton<Reproductions>();
        services.AddSingleton<RunStarter>();
        services.AddHostedService(provider => provider.GetRequiredService<RunStarter>());
        services.AddSingleton<Subscriptions>();
        services.AddSingleton<NewsDesk>();
        services.AddSingleton<Postman>();
        services.AddHostedService(provider => provider.GetRequiredService<Postman>());
        services.AddSingleton<TextShelf>();
        services.AddSingleton<PlanDesk>();
        services.AddSingleton<CommandDesk>();
        services.AddSingleton<PartOptions>();
        services.AddDataProtection().SetApplicationName("espalier-studio").UseEphemeralDataProtectionProvider();
        services.AddAntiforgery(a =>
        {
            a.HeaderName = ApiGuard.Header;
            a.Cookie.Name = "espalier-form";
            a.Cookie.SameSite = SameSiteMode.Strict;
        });
        services.AddRazorComponents();
        services.AddHttpContextAccessor();
        services.AddOpenApi("v1", OpenApiText.Describe);
        services.ConfigureHttpJsonOptions(json =>
        {
            json.SerializerOptions.Converters.Add(new JsonStringEnumConverter(JsonNamingPolicy.CamelCase));
            json.SerializerOptions.NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals;
            json.SerializerOptions.DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull;
        });
        services.AddRateLimiter(limiter =>
        {
            limiter.RejectionStatusCode = StatusCodes.Status429TooManyRequests;
            limiter.AddPolicy(StartsWork, context => RateLimitPartition.GetFixedWindowLimiter(
                context.Connection.RemoteIpAddress?.ToString() ?? "", _ => new FixedWindowRateLimiterOptions { PermitLimit = options.WorkPerMinute, Window = TimeSpan.FromMinutes(1), QueueLimit = 0 }));
            limiter.OnRejected = async (context, cancellation) =>
            {
                context.HttpContext.Response.Headers.RetryAfter = "60";
                await context.HttpContext.Response.WriteAsJsonAsync(new ApiError($"The studio starts at most {options.WorkPerMinute} pieces of work a minute; wait a minute."), cancellation).ConfigureAwait(false);
            };
        });

        WebApplication app = builder.Build();
        app.Services.GetRequiredService<ModelShelf>().Outputs = app.Services.GetRequiredService<RunShelf>().Outputs;
        app.UseMiddleware<ErrorSentences>();
        app.UseMiddleware<SecurityHeaders>();
        app.UseMiddleware<HostGuard>();
        app.UseMiddleware<TokenGate>();
        app.UseRouting();
        app.UseRateLimiter();
        app.UseMiddleware<ApiGuard>();
        app.UseAntiforgery();
        app.MapStudioAssets();
        app.MapTokenGate();
        StudioApi.Map(app);
        app.MapRazorComponents<App>();
        return app;
    }
}
