using Microsoft.AspNetCore.OpenApi;

namespace Espalier.Studio.Api;

internal static class OpenApiText
{
    public static void Describe(OpenApiOptions options) => options.AddDocumentTransformer((document, _, _) =>
    {
        document.Info.Title = "Espalier studio";
        document.Info.Description = "Everything that the pages of the studio do. Answers are JSON; errors are one sentence in 'error'. Where a token is demanded, send it as Authorization: Bearer.";
        document.Info.Version = "v1";
        return Task.CompletedTask;
    });
}
