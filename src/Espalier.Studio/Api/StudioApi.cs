using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Studio.Models;
using Espalier.Studio.Systems;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.HttpResults;
using Microsoft.AspNetCore.Routing;

namespace Espalier.Studio.Api;

/// <summary>What was wrong, in a sentence.</summary>
/// <param name="Error">The sentence.</param>
public sealed record ApiError(string Error);

/// <summary>A system with its page and its neighbours.</summary>
/// <param name="System">The system.</param>
/// <param name="Page">Its page as HTML; null where none is written.</param>
/// <param name="Like">The systems most like it.</param>
public sealed record SystemDetail(SystemCard System, string? Page, IReadOnlyList<SystemCard> Like);

/// <summary>How the weights of a tensor spread.</summary>
/// <param name="Top">The bins reach from −top to top; what lies beyond is counted in the outermost.</param>
/// <param name="Counts">How many weights other than 0 each bin holds.</param>
/// <param name="Zeros">How many weights are 0.</param>
/// <param name="Mean">Their mean.</param>
/// <param name="Deviation">Their standard deviation.</param>
public sealed record WeightHistogram(double Top, IReadOnlyList<long> Counts, long Zeros, double Mean, double Deviation);

/// <summary>The REST API: everything that the pages do.</summary>
internal static class StudioApi
{
    public static void Map(IEndpointRouteBuilder routes)
    {
        routes.MapOpenApi("/openapi/{documentName}.json");
        RouteGroupBuilder api = routes.MapGroup("/api/v1");
        Systems(api.MapGroup("/systems").WithTags("Systems"));
        Models(api.MapGroup("/models").WithTags("Models"));
        api.MapGet("/doctor", (DoctorVisit doctor, bool? anew, CancellationToken cancellation) => doctor.AskAsync(anew ?? false, cancellation))
            .WithTags("Doctor").WithName("GetDoctor").WithSummary("What the doctor says of this machine.");
        RunsApi.Map(api);
        DigestApi.Map(api, routes);
        api.Map("/{**rest}", () => TypedResults.NotFound(new ApiError("The API has no such address; /openapi/v1.json lists all."))).ExcludeFromDescription();
    }

    private static void Systems(RouteGroupBuilder group)
    {
        group.MapGet("", (SystemLibrary library, string? q, string? family, MethodState? state) => library.Find(q, family, state))
            .WithName("FindSystems").WithSummary("The systems of the catalogue, searched by what they say; the best match first.");
        group.MapGet("/{slug}", (SystemLibrary library, string slug) => Found(() => new SystemDetail(library[slug], library.Page(slug), library.Like(slug))))
            .WithName("GetSystem").WithSummary("One system with its page and the systems most like it.");
    }

    private static void Models(RouteGroupBuilder group)
    {
        group.MapGet("", (ModelShelf shelf) => shelf.All()).WithName("ListModels").WithSummary("The models of this machine that the studio may open.");
        group.MapGet("/{key}", async Task<Results<Ok<ModelDetail>, NotFound<ApiError>>> (ModelShelf shelf, string key, CancellationToken cancellation) =>
            shelf.All().Any(m => m.Key == key) ? TypedResults.Ok(await shelf.DetailAsync(key, cancellation).ConfigureAwait(false)) : Missing("There is no such model here; /api/v1/models lists all."))
            .WithName("GetModel").WithSummary("A model: its tensors with their shapes and zeros.");
        group.MapGet("/{key}/mask", (ModelShelf shelf, string key, string tensor, long? row, long? column, long? height, long? width, int? tiles) => Found(() =>
            shelf.Look(key, source => TensorPicture.Of(source, tensor, row ?? 0, column ?? 0, height ?? 0, width ?? 0, tiles ?? 256))))
            .WithName("GetMask").WithSummary("A part of a weight seen from afar: the share that is kept in each tile.");
        group.MapGet("/{key}/histogram", (ModelShelf shelf, string key, string tensor) => Found(() => shelf.Look(key, source =>
        {
            var (top, counts, zeros, mean, deviation) = TensorPicture.Histogram(source, tensor);
            return new WeightHistogram(top, counts, zeros, mean, deviation);
        }))).WithName("GetHistogram").WithSummary("How the weights of a tensor spread.");
        group.MapPost("/{key}/text", (TextBench bench, string key, TextRequest request, CancellationToken cancellation) =>
        {
            bench.Check(key, request);
            return TypedResults.ServerSentEvents(bench.WriteAsync(key, request, cancellation));
        }).RequireRateLimiting(StudioServer.StartsWork).WithName("Generate").WithSummary("Lets a model continue a text; the pieces come as server-sent events while they are made.");
    }

    internal static NotFound<ApiError> Missing(string sentence) => TypedResults.NotFound(new ApiError(sentence));

    internal static Results<Ok<T>, NotFound<ApiError>> Found<T>(Func<T> look)
    {
        try
        {
            return TypedResults.Ok(look());
        }
        catch (EspalierException fault)
        {
            return Missing(fault.Message);
        }
    }
}
