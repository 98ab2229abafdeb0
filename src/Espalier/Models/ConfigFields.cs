using System.Text.Json;
using System.Text.Json.Nodes;
using Espalier.Runtime;

namespace Espalier.Models;

/// <summary>Reads the fields of a config.json; every fault is a sentence that names the field and the file.</summary>
/// <param name="json">The object.</param>
/// <param name="origin">Where it came from, for the sentences ("models/llama/config.json").</param>
public sealed class ConfigFields(JsonObject json, string origin)
{
    /// <summary>The largest size that is believed: products of a few of them stay within 64 bits, and no published model comes near.</summary>
    internal const int LargestSize = 1 << 28;

    /// <summary>Where the object came from.</summary>
    public string Origin => origin;

    /// <summary>The object itself.</summary>
    internal JsonObject Json => json;

    /// <summary>Whether the field is there and not null.</summary>
    public bool Has(string name) => json.TryGetPropertyValue(name, out JsonNode? node) && node is not null;

    /// <summary>Whether the field is there, be it null.</summary>
    public bool Mentions(string name) => json.ContainsKey(name);

    /// <summary>A whole number of at least 1 that must be there, under any of several names.</summary>
    public int Positive(params IReadOnlyList<string> names)
    {
        string? present = names.FirstOrDefault(Has);
        EspalierException.Require(present is not null, $"{origin} has no '{names[0]}'; the model cannot be built without it.");
        int size = Whole(present, least: 1);
        EspalierException.Require(size <= LargestSize, Wrong(present, $"at most {LargestSize}; the file is damaged"));
        return size;
    }

    /// <summary>A whole number of at least 1, or what stands in for it.</summary>
    public int PositiveOr(int fallback, params IReadOnlyList<string> names) => names.Any(Has) ? Positive(names) : fallback;

    /// <summary>A whole number of at least <paramref name="least"/>, or null where the field is missing or null.</summary>
    public int? Optional(string name, int least = 1) => Has(name) ? Whole(name, least) : null;

    /// <summary>A finite number greater than 0, or what stands in for it.</summary>
    public double Number(string name, double fallback)
    {
        if (!Has(name))
        {
            return fallback;
        }

        EspalierException.Require(json[name] is JsonValue value && value.GetValueKind() is JsonValueKind.Number, Wrong(name, "a number"));
        double number = double.Parse(json[name]!.ToJsonString(), System.Globalization.CultureInfo.InvariantCulture);
        EspalierException.Require(double.IsFinite(number) && number > 0, Wrong(name, "a number greater than 0"));
        return number;
    }

    /// <summary>True or false, or what stands in for it.</summary>
    public bool Flag(string name, bool fallback)
    {
        if (!Has(name))
        {
            return fallback;
        }

        JsonValueKind kind = json[name]!.GetValueKind();
        EspalierException.Require(kind is JsonValueKind.True or JsonValueKind.False, Wrong(name, "true or false"));
        return kind is JsonValueKind.True;
    }

    /// <summary>A word, or what stands in for it.</summary>
    public string Text(string name, string fallback)
    {
        if (!Has(name))
        {
            return fallback;
        }

        EspalierException.Require(json[name]!.GetValueKind() is JsonValueKind.String, Wrong(name, "a string"));
        return json[name]!.GetValue<string>();
    }

    /// <summary>The activation function's name, checked against those that are known.</summary>
    public string Activation(string name, string fallback)
    {
        string activation = Text(name, fallback);
        EspalierException.Require(Activations.Names.Contains(activation), $"{origin}: the activation '{activation}' ({name}) is not known; known are {string.Join(", ", Activations.Names)}.");
        return activation;
    }

    /// <summary>An object within this one, or null where it is missing or null.</summary>
    public ConfigFields? Section(string name)
    {
        if (!Has(name))
        {
            return null;
        }

        EspalierException.Require(json[name] is JsonObject, Wrong(name, "an object"));
        return new ConfigFields((JsonObject)json[name]!, $"{origin}, {name}");
    }

    /// <summary>The items of a list, or null where it is missing or null.</summary>
    public IReadOnlyList<JsonNode?>? List(string name)
    {
        if (!Has(name))
        {
            return null;
        }

        EspalierException.Require(json[name] is JsonArray, Wrong(name, "a list"));
        return [.. (JsonArray)json[name]!];
    }

    /// <summary>A whole number or a list of them; empty where the field is missing or null.</summary>
    public IReadOnlyList<int> WholeOrList(string name)
    {
        if (!Has(name))
        {
            return [];
        }

        IReadOnlyList<JsonNode?> items = json[name] is JsonArray list ? [.. list] : new JsonNode?[] { json[name] };
        return [.. items.Select(item =>
        {
            EspalierException.Require(item is JsonValue v && v.GetValueKind() is JsonValueKind.Number && TryWhole(v, out _), Wrong(name, "a whole number or a list of them"));
            TryWhole(item.AsValue(), out int number);
            return number;
        })];
    }

    /// <summary>Parses a configuration's text; numbers, names and texts in it are read without faults afterwards.</summary>
    /// <param name="text">The text of a config.json.</param>
    /// <param name="origin">Where it came from, for the sentences.</param>
    /// <param name="what">What it must be ("a model's configuration").</param>
    /// <exception cref="EspalierException">When it is no JSON object, names a field twice, or holds text that is none.</exception>
    internal static ConfigFields Parse(string text, string origin, string what)
    {
        try
        {
            // The document checks what nodes would only find when they are asked: fields that are there twice.
            using JsonDocument document = JsonDocument.Parse(text, new JsonDocumentOptions { AllowTrailingCommas = true, CommentHandling = JsonCommentHandling.Skip, AllowDuplicateProperties = false });
            EspalierException.Require(document.RootElement.ValueKind is JsonValueKind.Object, $"{origin} holds no JSON object; it must be {what}.");
            RequireText(document.RootElement);
            return new ConfigFields(JsonObject.Create(document.RootElement.Clone())!, origin);
        }
        catch (JsonException fault)
        {
            throw new EspalierException($"{origin} is not valid JSON (line {(fault.LineNumber ?? 0) + 1}: {fault.Message.Split(" Path:")[0].Split(" LineNumber:")[0].TrimEnd('.')}); download or write it again.", fault);
        }
        catch (InvalidOperationException fault)
        {
            throw new EspalierException($"{origin} holds half a character (a lone surrogate); download or write it again.", fault);
        }
    }

    // Text is decoded when it is asked for, and half a surrogate pair is a fault only then.
    private static void RequireText(JsonElement element)
    {
        switch (element.ValueKind)
        {
            case JsonValueKind.String:
                element.GetString();
                break;
            case JsonValueKind.Array:
                foreach (JsonElement item in element.EnumerateArray())
                {
                    RequireText(item);
                }

                break;
            case JsonValueKind.Object:
                foreach (JsonProperty field in element.EnumerateObject())
                {
                    _ = field.Name;
                    RequireText(field.Value);
                }

                break;
        }
    }

    private int Whole(string name, int least)
    {
        int number = 0;
        EspalierException.Require(json[name] is JsonValue value && value.GetValueKind() is JsonValueKind.Number && TryWhole(value, out number) && number >= least, Wrong(name, $"a whole number of at least {least}"));
        return number;
    }

    /// <summary>JSON knows only numbers: 2048.0 is as good as 2048.</summary>
    private static bool TryWhole(JsonValue value, out int number)
    {
        number = 0;
        if (!double.TryParse(value.ToJsonString(), System.Globalization.CultureInfo.InvariantCulture, out double real) || real != Math.Floor(real) || Math.Abs(real) > int.MaxValue)
        {
            return false;
        }

        number = (int)real;
        return true;
    }

    private string Wrong(string name, string wanted) => $"{origin}: '{name}' is {json[name]?.ToJsonString() ?? "null"}, but must be {wanted}.";
}
