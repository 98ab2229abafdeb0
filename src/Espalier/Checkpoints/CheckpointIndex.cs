using System.Text.Json;
using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>The <c>model.safetensors.index.json</c> of a sharded checkpoint: which file holds which tensor.</summary>
internal static class CheckpointIndex
{
    /// <summary>What the index of a file is called.</summary>
    public const string Suffix = ".index.json";

    private const long MaximumLength = 100_000_000;

    /// <summary>Reads and checks an index.</summary>
    /// <param name="path">The index.</param>
    /// <returns>For each tensor the name of its file, which lies in the same folder.</returns>
    /// <exception cref="EspalierException">When it is unreadable, names a tensor twice, or a file outside the folder.</exception>
    public static IReadOnlyDictionary<string, string> Read(string path)
    {
        byte[] json;
        try
        {
            EspalierException.Require(new FileInfo(path).Length <= MaximumLength, $"{path} has more than 100 MB and cannot be an index of shards.");
            json = File.ReadAllBytes(path);
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            throw new EspalierException($"The index {path} cannot be read ({fault.Message.TrimEnd('.')}); check the file and its permissions.", fault);
        }

        try
        {
            return Parse(path, json);
        }
        catch (Exception fault) when (fault is JsonException or InvalidOperationException)
        {
            throw new EspalierException($"The index {path} is not valid JSON in UTF-8 ({fault.Message.TrimEnd('.')}); download it again.", fault);
        }
    }

    /// <summary>Writes an index, tensors in the order of their names as other tools do.</summary>
    /// <param name="stream">Where it goes.</param>
    /// <param name="weightMap">For each tensor its file.</param>
    /// <param name="totalBytes">The bytes of all tensors together.</param>
    public static void Write(Stream stream, IReadOnlyDictionary<string, string> weightMap, long totalBytes)
    {
        using var json = new Utf8JsonWriter(stream, new JsonWriterOptions
        {
            Indented = true,
            Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        });
        json.WriteStartObject();
        json.WriteStartObject("metadata");
        json.WriteNumber("total_size", totalBytes);
        json.WriteEndObject();
        json.WriteStartObject("weight_map");
        foreach ((string name, string file) in weightMap.OrderBy(pair => pair.Key, StringComparer.Ordinal))
        {
            json.WriteString(name, file);
        }

        json.WriteEndObject();
        json.WriteEndObject();
    }

    private static Dictionary<string, string> Parse(string path, ReadOnlySpan<byte> json)
    {
        var map = new Dictionary<string, string>(StringComparer.Ordinal);
        bool found = false;
        var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = 16 });
        reader.Read();
        EspalierException.Require(reader.TokenType == JsonTokenType.StartObject, $"The index {path} is not a JSON object; download it again.");
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            bool isMap = reader.ValueTextEquals("weight_map");
            reader.Read();
            if (!isMap)
            {
                reader.Skip();
                continue;
            }

            EspalierException.Require(
                !found && reader.TokenType == JsonTokenType.StartObject, $"The index {path} must have one object 'weight_map'; download it again.");
            found = true;
            while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
            {
                string name = reader.GetString()!;
                reader.Read();
                EspalierException.Require(reader.TokenType == JsonTokenType.String, $"The index {path} gives tensor '{name}' no file name; download it again.");
                string file = reader.GetString()!;
                EspalierException.Require(
                    IsPlainName(file),
                    $"The index {path} sends tensor '{name}' to '{file}', which is not the plain name of a *.safetensors file in its folder; do not trust this checkpoint.");
                EspalierException.Require(map.TryAdd(name, file), $"The index {path} names tensor '{name}' twice; download it again.");
            }
        }

        reader.Read();
        EspalierException.Require(found && map.Count > 0, $"The index {path} names no tensors in 'weight_map'; download it again.");
        return map;
    }

    private static bool IsPlainName(string file) =>
        file.EndsWith(".safetensors", StringComparison.Ordinal)
        && file.AsSpan().IndexOfAny("/\\:\0") < 0
        && !file.StartsWith('.');
}
