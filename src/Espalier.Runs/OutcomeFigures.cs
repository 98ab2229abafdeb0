using System.Globalization;
using System.Text.Json;

namespace Espalier.Runs;

/// <summary>The figures and words of a result, found in its JSON whatever command it is of.</summary>
public static class OutcomeFigures
{
    private const int Deepest = 4, LongestList = 12, LongestText = 120, Most = 200;

    // What names an element of a list, so that its figures have the same name in every run.
    private static readonly string[] Names = ["stage", "name", "arm", "model", "task"];

    // What a result is looked at for first.
    private static readonly string[] Headlines = ["verdict", "perplexity", "accuracy", "finalLoss"];

    /// <summary>Figures and words by path (<c>quality.pruned.perplexity</c>); long texts, tables and the machine are left out.</summary>
    /// <param name="outcome"><see cref="Run.Outcome"/>.</param>
    public static IReadOnlyDictionary<string, string> Of(string outcome)
    {
        var found = new Dictionary<string, string>(StringComparer.Ordinal);
        if (outcome.Length > 0)
        {
            try
            {
                using var json = JsonDocument.Parse(outcome);
                Walk(json.RootElement, "", 0, found);
            }
            catch (JsonException)
            {
                // A result of another version, or cut: nothing to show of it.
            }
        }

        return found;
    }

    /// <summary>The one figure or word that says most, as "verdict holds" or "perplexity 7.53"; empty where there is none.</summary>
    /// <param name="outcome"><see cref="Run.Outcome"/>.</param>
    public static string Headline(string outcome)
    {
        IReadOnlyDictionary<string, string> figures = Of(outcome);
        foreach (string name in Headlines)
        {
            // Of several stages the last one counts, not a packed form in the table of speeds; a verdict is one only of the whole.
            string? key = figures.Keys.LastOrDefault(k => k == name)
                ?? (name == "verdict" ? null : figures.Keys.LastOrDefault(k => k.EndsWith("." + name, StringComparison.Ordinal) && !k.StartsWith("speed.", StringComparison.Ordinal)));
            if (key is not null)
            {
                string value = figures[key];
                string shown = double.TryParse(value, CultureInfo.InvariantCulture, out double number) ? number.ToString("G4", CultureInfo.InvariantCulture) : value;
                return name == "verdict" ? shown : $"{(name == "finalLoss" ? "loss" : name)} {shown}";
            }
        }

        return "";
    }

    private static void Walk(JsonElement element, string path, int depth, Dictionary<string, string> found)
    {
        if (found.Count >= Most || depth > Deepest)
        {
            return;
        }

        switch (element.ValueKind)
        {
            case JsonValueKind.Object:
                foreach (JsonProperty property in element.EnumerateObject().Where(p => depth > 0 || p.Name is not ("machine" or "planYaml" or "plan" or "fullPlan")))
                {
                    Walk(property.Value, path.Length == 0 ? property.Name : $"{path}.{property.Name}", depth + 1, found);
                }

                break;
            case JsonValueKind.Array when element.GetArrayLength() is > 0 and <= LongestList && element[0].ValueKind is JsonValueKind.Object:
                foreach (JsonElement item in element.EnumerateArray())
                {
                    string? name = Names.Select(n => item.ValueKind is JsonValueKind.Object && item.TryGetProperty(n, out JsonElement named) && named.ValueKind is JsonValueKind.String ? named.GetString() : null).FirstOrDefault(n => n is not null);
                    if (name is not null)
                    {
                        Walk(item, $"{path}.{name}", depth + 1, found);
                    }
                }

                break;
            case JsonValueKind.Number or JsonValueKind.True or JsonValueKind.False:
                found.TryAdd(path, element.GetRawText());
                break;
            case JsonValueKind.String when element.GetString() is { Length: > 0 and <= LongestText } text && !Names.Any(n => path.EndsWith("." + n, StringComparison.Ordinal)):
                found.TryAdd(path, text);
                break;
        }
    }
}
