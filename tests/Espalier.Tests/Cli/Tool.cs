using System.Text.Json;
using Espalier.Cli;

namespace Espalier.Tests.Cli;

/// <summary>What one run of the tool, in this process, wrote and answered.</summary>
internal sealed record Tool(int Code, string Output, string Error)
{
    /// <summary>Runs the tool.</summary>
    public static Task<Tool> RunAsync(params string[] words) => RunAsync(words, CancellationToken.None);

    /// <summary>Runs the tool so that it can be stopped.</summary>
    public static async Task<Tool> RunAsync(string[] words, CancellationToken cancellation)
    {
        var (output, error) = (new StringWriter(), new StringWriter());
        int code = await EspalierCommandLine.RunAsync(words, output, error, cancellation);
        return new Tool(code, output.ToString(), error.ToString());
    }

    /// <summary>The JSON events on standard output; every line must be one.</summary>
    public IReadOnlyList<JsonElement> Events =>
        [.. Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => JsonDocument.Parse(line).RootElement)];

    /// <summary>The value of the result event, which is the last.</summary>
    public JsonElement Result
    {
        get
        {
            Events[^1].GetProperty("event").GetString().ShouldBe("result");
            return Events[^1].GetProperty("value");
        }
    }
}
