using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using Espalier.Checkpoints;

namespace Espalier.Reporting;

/// <summary>The same record that a page draws, as <c>report.json</c> for programs.</summary>
public static class ReportJson
{
    /// <summary>How reports are written: camel case, indented, tuples with their fields, NaN and infinities by name.</summary>
    public static JsonSerializerOptions Options { get; } = new(JsonSerializerDefaults.Web)
    {
        WriteIndented = true,
        IncludeFields = true,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.CamelCase) },
    };

    /// <summary>Writes a report, all or nothing.</summary>
    /// <typeparam name="T">The report's record.</typeparam>
    /// <param name="path">The file, usually <c>report.json</c>.</param>
    /// <param name="report">What was found out.</param>
    /// <exception cref="Runtime.EspalierException">When it cannot be written.</exception>
    public static void Save<T>(string path, T report) => AtomicFile.WriteText(path, JsonSerializer.Serialize(report, Options) + "\n");

    /// <summary>Reads a report back.</summary>
    /// <typeparam name="T">The report's record.</typeparam>
    /// <param name="path">The file.</param>
    /// <exception cref="Runtime.EspalierException">When it is missing or not such a report.</exception>
    public static T Load<T>(string path)
    {
        Runtime.EspalierException.Require(File.Exists(path), $"There is no report at {path}.");
        try
        {
            using FileStream stream = File.OpenRead(path);
            return JsonSerializer.Deserialize<T>(stream, Options)
                ?? throw new Runtime.EspalierException($"{path} is empty; it should hold a report.");
        }
        catch (JsonException fault)
        {
            throw new Runtime.EspalierException($"{path} is not a report that this version reads ({fault.Message.Split('\n')[0]}).", fault);
        }
    }
}
