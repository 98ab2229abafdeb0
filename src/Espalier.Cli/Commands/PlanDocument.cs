using System.Collections;
using System.Globalization;
using Espalier.Runtime;
using YamlDotNet.Core;
using YamlDotNet.Serialization;

namespace Espalier.Cli.Commands;

/// <summary>A plan as nested maps: read from YAML, then overridden by the words of the command line.</summary>
internal sealed class PlanDocument
{
    private readonly Dictionary<string, object?> _root;

    private PlanDocument(Dictionary<string, object?> root) => _root = root;

    /// <summary>The maps.</summary>
    public IReadOnlyDictionary<string, object?> Root => _root;

    /// <summary>An empty plan for a model.</summary>
    public static PlanDocument ForModel(string model) => new(new Dictionary<string, object?> { ["model"] = model });

    /// <summary>Reads a YAML file.</summary>
    /// <exception cref="EspalierException">When it cannot be read or is no map; names the line.</exception>
    public static PlanDocument Read(string path)
    {
        string text;
        try
        {
            text = File.ReadAllText(path);
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            throw new EspalierException($"The plan {path} cannot be read: {fault.Message}", fault);
        }

        try
        {
            object? read = new DeserializerBuilder().WithDuplicateKeyChecking().Build().Deserialize<object?>(text);
            EspalierException.Require(read is IDictionary, $"The plan {path} is no map of words; it begins like this: model: meta-llama/Llama-3.2-1B.");
            return new PlanDocument(Strings((IDictionary)read));
        }
        catch (YamlException fault)
        {
            throw new EspalierException($"The plan {path} is no valid YAML at line {fault.Start.Line}, column {fault.Start.Column}: {fault.InnerException?.Message ?? fault.Message}", fault);
        }
    }

    /// <summary>Sets one word, where the command line gave it; <paramref name="path"/> is like "prune.criterion".</summary>
    public void Set(string path, object? value)
    {
        if (value is null)
        {
            return;
        }

        string[] parts = path.Split('.');
        Dictionary<string, object?> map = _root;
        foreach (string part in parts[..^1])
        {
            // "retrain: perp" with "--steps 200" becomes a map that names the method.
            map[part] = map.GetValueOrDefault(part) switch
            {
                Dictionary<string, object?> known => known,
                null => new Dictionary<string, object?>(),
                object method => new Dictionary<string, object?> { ["method"] = method },
            };
            map = (Dictionary<string, object?>)map[part]!;
        }

        map[parts[^1]] = value;
    }

    private static Dictionary<string, object?> Strings(IDictionary map)
    {
        var result = new Dictionary<string, object?>();
        foreach (DictionaryEntry entry in map)
        {
            result[Convert.ToString(entry.Key, CultureInfo.InvariantCulture)!] = entry.Value is IDictionary inner ? Strings(inner) : entry.Value;
        }

        return result;
    }
}
