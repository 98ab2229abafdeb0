namespace Espalier.Tests.Cli;

/// <summary>Standard output with <c>--json</c>, which does something as soon as an event is there: between two steps of the work, in its thread.</summary>
/// <param name="heard">Gets the number of the event, from 1, and its line.</param>
internal sealed class EventWriter(Action<int, string> heard) : StringWriter
{
    /// <summary>The events so far.</summary>
    public int Count { get; private set; }

    public override void WriteLine(string? value)
    {
        base.WriteLine(value);
        heard(++Count, value ?? string.Empty);
    }

    /// <summary>Runs the tool with <c>--json</c>.</summary>
    public static async Task<Tool> RunAsync(string[] words, Action<int, string> heard, CancellationToken cancellation = default)
    {
        using var output = new EventWriter(heard);
        using var error = new StringWriter();
        int code = await Espalier.Cli.EspalierCommandLine.RunAsync([.. words, "--json"], output, error, cancellation);
        return new Tool(code, output.ToString(), error.ToString());
    }
}
