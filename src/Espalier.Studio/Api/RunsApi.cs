using Espalier.Runs;
using Espalier.Runtime;
using Espalier.Studio.Runs;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.HttpResults;
using Microsoft.AspNetCore.Routing;

namespace Espalier.Studio.Api;

/// <summary>A run in a list.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Command">The command.</param>
/// <param name="Title">What a person calls it.</param>
/// <param name="Model">The model that it works on.</param>
/// <param name="State">How far it is.</param>
/// <param name="Started">When it began (UTC).</param>
/// <param name="Seconds">How long it has taken.</param>
/// <param name="Progress">Of the work under way, 0 to 1; null where that is not known.</param>
/// <param name="Doing">What is being done.</param>
/// <param name="Error">What ended it; empty for nothing.</param>
/// <param name="Tags">Its tags.</param>
public sealed record RunCard(string Id, string Command, string Title, string Model, RunState State, DateTime Started, double Seconds, double? Progress, string Doing, string Error, IReadOnlyList<string> Tags)
{
    internal static RunCard Of(Run run) => new(run.Id, run.Command, NameOf(run), run.Model, run.State, run.Started, Math.Round(run.Duration.TotalSeconds, 1), run.Progress, run.Doing, run.Error, [.. run.Tags.Select(t => t.Tag).Order(StringComparer.Ordinal)]);

    internal static string NameOf(Run run) => run.Title.Length > 0 ? run.Title : run.Model.Length > 0 ? $"{run.Command} {Path.GetFileName(Path.TrimEndingDirectorySeparator(run.Model))}" : $"{run.Command} {run.ShortId}";
}

/// <summary>Some of the runs.</summary>
/// <param name="Runs">Them.</param>
/// <param name="Total">How many there are.</param>
public sealed record RunList(IReadOnlyList<RunCard> Runs, int Total);

/// <summary>A file that a run has made.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Kind">What it is.</param>
/// <param name="Bytes">Its size.</param>
public sealed record RunFile(string Name, string Kind, long Bytes);

/// <summary>A run in full.</summary>
/// <param name="Run">In short.</param>
/// <param name="Plan">Its plan as YAML, or empty.</param>
/// <param name="Seed">Its seed.</param>
/// <param name="ResumedFrom">The run that it goes on with, or empty.</param>
/// <param name="Metrics">Its figures in short.</param>
/// <param name="Files">What it has made.</param>
/// <param name="Figures">What it came to.</param>
public sealed record RunFull(RunCard Run, string Plan, long? Seed, string ResumedFrom, IReadOnlyList<MetricSummary> Metrics, IReadOnlyList<RunFile> Files, RunFigures Figures);

/// <summary>Tags to give and to take away.</summary>
/// <param name="Add">To give.</param>
/// <param name="Remove">To take away.</param>
public sealed record TagChange(IReadOnlyList<string>? Add = null, IReadOnlyList<string>? Remove = null);

internal static class RunsApi
{
    public static void Map(RouteGroupBuilder api)
    {
        RouteGroupBuilder runs = api.MapGroup("/runs").WithTags("Runs");
        runs.MapGet("", async (RunShelf shelf, string? text, RunState? state, string? tag, string? command, RunSort? sort, bool? descending, int? skip, int? take, CancellationToken cancellation) =>
        {
            RunPage page = await (await shelf.StoreAsync(cancellation).ConfigureAwait(false)).ListAsync(Filter(text, state, tag, command, sort, descending, skip, take), cancellation).ConfigureAwait(false);
            return new RunList([.. page.Runs.Select(RunCard.Of)], page.Total);
        }).WithName("ListRuns").WithSummary("Runs, filtered and sorted; the newest first.");
        runs.MapGet("/{id}", async Task<Results<Ok<RunFull>, NotFound<ApiError>>> (RunShelf shelf, string id, CancellationToken cancellation) =>
            await shelf.FindAsync(id, cancellation).ConfigureAwait(false) is { } found ? TypedResults.Ok(Full(found)) : NoRun()).WithName("GetRun").WithSummary("A run with its figures and files.");
        runs.MapGet("/{id}/metrics", async Task<Results<Ok<IReadOnlyList<MetricPoint>>, NotFound<ApiError>>> (RunShelf shelf, string id, string? name, long? after, CancellationToken cancellation) =>
            await shelf.FindAsync(id, cancellation).ConfigureAwait(false) is null ? NoRun()
                : TypedResults.Ok(await (await shelf.StoreAsync(cancellation).ConfigureAwait(false)).MetricsAsync(id, new MetricQuery { Names = name is null ? [] : [name], AfterId = after ?? 0 }, cancellation).ConfigureAwait(false)))
            .WithName("GetMetrics").WithSummary("Figures over time; 'after' gives what came since a point.");
        runs.MapGet("/{id}/log", async Task<Results<Ok<IReadOnlyList<LogLine>>, NotFound<ApiError>>> (RunShelf shelf, string id, long? after, CancellationToken cancellation) =>
            await shelf.FindAsync(id, cancellation).ConfigureAwait(false) is null ? NoRun()
                : TypedResults.Ok(await (await shelf.StoreAsync(cancellation).ConfigureAwait(false)).LogAsync(id, after ?? 0, 10_000, cancellation).ConfigureAwait(false)))
            .WithName("GetLog").WithSummary("What a run has said.");
        runs.MapGet("/{id}/events", async (RunShelf shelf, RunFeed feed, string id, HttpContext context, CancellationToken cancellation) =>
        {
            if (await shelf.FindAsync(id, cancellation).ConfigureAwait(false) is null)
            {
                context.Response.StatusCode = StatusCodes.Status404NotFound;
                await context.Response.WriteAsJsonAsync(new ApiError("There is no such run."), cancellation).ConfigureAwait(false);
                return;
            }

            context.Response.ContentType = "text/event-stream";
            await foreach (ReadOnlyMemory<byte> text in feed.ReadAsync(id, cancellation).ConfigureAwait(false))
            {
                await context.Response.Body.WriteAsync(text, cancellation).ConfigureAwait(false);
                await context.Response.Body.FlushAsync(cancellation).ConfigureAwait(false);
            }
        }).WithName("WatchRun").WithSummary("A run as it goes, as server-sent events: run, metrics, log, end.").Produces(200, contentType: "text/event-stream");
        runs.MapGet("/{id}/files/{**name}", async (RunShelf shelf, string id, string name, bool? show, HttpContext context, CancellationToken cancellation) =>
        {
            FileInfo file = RunShelf.FileOf(await shelf.GetAsync(id, cancellation).ConfigureAwait(false), name);
            bool page = show == true && file.Extension is ".html";
            if (page)
            {
                // A report brings its own script: it runs in a box without anything of the studio.
                context.Response.Headers.ContentSecurityPolicy = "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'self'";
            }

            return Results.File(file.FullName, page ? "text/html; charset=utf-8" : "application/octet-stream", page ? null : file.Name, enableRangeProcessing: true);
        }).WithName("GetFile").WithSummary("A file that a run has made.");
        runs.MapPost("/{id}/tags", async Task<Results<NoContent, NotFound<ApiError>>> (RunShelf shelf, string id, TagChange change, CancellationToken cancellation) =>
        {
            string[] add = Tags(change.Add);
            if (await shelf.FindAsync(id, cancellation).ConfigureAwait(false) is null)
            {
                return NoRun();
            }

            await (await shelf.StoreAsync(cancellation).ConfigureAwait(false)).TagAsync(id, add, change.Remove ?? [], cancellation).ConfigureAwait(false);
            return TypedResults.NoContent();
        }).WithName("TagRun").WithSummary("Gives a run tags and takes some away.");
        runs.MapPost("/{id}/stop", async (RunShelf shelf, RunStarter starter, string id, CancellationToken cancellation) =>
        {
            await starter.StopAsync(await shelf.GetAsync(id, cancellation).ConfigureAwait(false), cancellation).ConfigureAwait(false);
            return TypedResults.Accepted((string?)null);
        }).WithName("StopRun").WithSummary("Asks a run to stop where nothing is lost.");
        runs.MapPost("/{id}/resume", async (RunShelf shelf, RunStarter starter, string id, CancellationToken cancellation) =>
            RunCard.Of(await starter.ResumeAsync(await shelf.GetAsync(id, cancellation).ConfigureAwait(false), cancellation).ConfigureAwait(false)))
            .RequireRateLimiting(StudioServer.StartsWork).WithName("ResumeRun").WithSummary("Goes on with a run that was stopped.");
        runs.MapDelete("/{id}", async (RunShelf shelf, string id, CancellationToken cancellation) =>
        {
            RunDetails found = await shelf.GetAsync(id, cancellation).ConfigureAwait(false);
            EspalierException.Require(found.Run.State is not (RunState.Running or RunState.Queued), "Stop the run before it is taken out of the store.");
            await (await shelf.StoreAsync(cancellation).ConfigureAwait(false)).DeleteAsync([id], cancellation).ConfigureAwait(false);
            return TypedResults.NoContent();
        }).WithName("DeleteRun").WithSummary("Takes a run out of the store; its files stay.");
        runs.MapPost("", async (RunStarter starter, PlanDesk desk, PlanDraft draft, CancellationToken cancellation) =>
        {
            (string title, IReadOnlyList<string> tags) = Named(draft.Title, draft.Tags);
            Run run = await starter.StartAsync(desk.Read(draft), title, tags, cancellation).ConfigureAwait(false);
            return TypedResults.Created($"/api/v1/runs/{run.Id}", RunCard.Of(run));
        }).RequireRateLimiting(StudioServer.StartsWork).WithName("StartRun").WithSummary("Starts a pruning run from a draft of its plan.");
        RouteGroupBuilder commands = api.MapGroup("/commands").WithTags("Runs");
        commands.MapGet("", (CommandDesk desk) => desk.Forms).WithName("ListCommands").WithSummary("The commands that can be started, with their options, as the command line has them.");
        commands.MapGet("/{command}/choices/{field}", (CommandDesk desk, string command, string field) => ChoicesAsync(desk, command, field)).WithName("GetChoices").WithSummary("The models, texts, adapters or plans that can stand for an option, with the keys that a draft calls them by.");
        commands.MapPost("/check", (CommandDesk desk, CommandDraft draft) => desk.Check(draft)).WithName("CheckCommand").WithSummary("Whether a command can be started as it stands, with its command line.");
        commands.MapPost("", async (RunStarter starter, CommandDesk desk, CommandDraft draft, CancellationToken cancellation) =>
        {
            (string title, IReadOnlyList<string> tags) = Named(draft.Title, draft.Tags);
            Run run = await starter.StartAsync(desk, draft, title, tags, cancellation).ConfigureAwait(false);
            return TypedResults.Created($"/api/v1/runs/{run.Id}", RunCard.Of(run));
        }).RequireRateLimiting(StudioServer.StartsWork).WithName("StartCommand").WithSummary("Starts a command: train, adapt, eval, compare, reproduce and others.");
        api.MapPost("/plans/check", (PlanDesk desk, PlanDraft draft) => desk.Check(draft)).WithTags("Runs").WithName("CheckPlan").WithSummary("Whether a draft can be started, with the plan as YAML.");
        api.MapGet("/parts/{part}", (PartOptions parts, string part) => StudioApi.Found(() => parts.Of(part))).WithTags("Runs").WithName("GetParts").WithSummary("What can stand at a place of a plan, with its options.");
        api.MapGet("/compare", async (RunShelf shelf, string ids, CancellationToken cancellation) =>
        {
            string[] wanted = [.. ids.Split(',', StringSplitOptions.RemoveEmptyEntries).Distinct()];
            EspalierException.Require(wanted.Length is > 0 and <= 40 && wanted.All(w => w.Length == 32 && w.All(char.IsAsciiHexDigit)), "Name 1 to 40 runs by their ids, apart by commas.");
            RunComparison comparison = await (await shelf.StoreAsync(cancellation).ConfigureAwait(false)).CompareAsync(wanted, cancellation).ConfigureAwait(false);
            return new { runs = comparison.Runs.Select(Full), comparison.Settings, comparison.Metrics };
        }).WithTags("Runs").WithName("CompareRuns").WithSummary("Runs side by side.");
    }

    internal static RunFilter Filter(string? text, RunState? state, string? tag, string? command, RunSort? sort, bool? descending, int? skip, int? take) => new()
    {
        Text = string.IsNullOrWhiteSpace(text) ? null : text.Trim(),
        States = state is { } s ? [s] : [],
        Tags = string.IsNullOrWhiteSpace(tag) ? [] : [tag],
        Commands = string.IsNullOrWhiteSpace(command) ? [] : [command],
        Sort = sort ?? RunSort.Started,
        Descending = descending ?? true,
        Skip = Math.Max(skip ?? 0, 0),
        Take = Math.Clamp(take ?? 50, 1, 200),
    };

    private static (string Title, IReadOnlyList<string> Tags) Named(string? title, IReadOnlyList<string>? tags)
    {
        EspalierException.Require(title is null or { Length: <= 120 }, "The name is longer than 120 letters.");
        return (title?.Trim() ?? "", Tags(tags));
    }

    private static string[] Tags(IReadOnlyList<string>? words)
    {
        string[] kept = [.. (words ?? []).Select(t => t.Trim()).Where(t => t.Length > 0)];
        EspalierException.Require(kept.All(t => t.Length <= RunTag.Longest && !t.Any(char.IsControl)) && kept.Length <= 20, $"A tag has at most {RunTag.Longest} letters, and a run takes at most 20 at once.");
        return kept;
    }

    private static async Task<IReadOnlyList<Choosable>> ChoicesAsync(CommandDesk desk, string command, string field) =>
        await desk.ChoicesAsync(desk.Form(command).Fields.FirstOrDefault(f => f.Name.TrimStart('-') == field.TrimStart('-')) ?? throw new EspalierException($"{command} has no option '{field}'.")).ConfigureAwait(false);

    private static RunFull Full(RunDetails found) => new(RunCard.Of(found.Run), found.Run.Plan, found.Run.Seed, found.Run.ResumedFrom, found.Metrics, [.. found.Artefacts.Select(a => new RunFile(a.Name, a.Kind, a.Bytes))], RunFigures.Of(found.Run));

    private static NotFound<ApiError> NoRun() => StudioApi.Missing("There is no such run.");
}
