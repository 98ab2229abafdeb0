using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Espalier.Cli.Display;

/// <summary>One JSON object per line, flushed at once, so that a script can follow.</summary>
internal static class JsonEvents
{
    /// <summary>How JSON is written everywhere in the tool.</summary>
    public static JsonSerializerOptions Options { get; } = new(JsonSerializerDefaults.Web)
    {
        // The text goes to a pipe, not into a page: letters stay letters.
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.CamelCase) },
    };

    public static void Write(TextWriter output, object value)
    {
        string line = JsonSerializer.Serialize(value, Options);
        lock (output)
        {
            output.WriteLine(line);
            output.Flush();
        }
    }
}
