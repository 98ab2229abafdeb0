using System.Collections.Concurrent;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using Espalier.Catalogue;
using Espalier.Pruning;
using Espalier.Runtime;

namespace Espalier.Studio.Runs;

/// <summary>An option as a form shows it.</summary>
/// <param name="Name">Its name in plans.</param>
/// <param name="Kind">What it takes.</param>
/// <param name="Default">Its default; null for none.</param>
/// <param name="Choices">The words that are possible; empty where any are.</param>
/// <param name="Hint">What its documentation says, in a sentence; null where it is not here.</param>
public sealed record FormField(string Name, OptionKind Kind, string? Default, IReadOnlyList<string> Choices, string? Hint);

/// <summary>A system that can stand at a place of a plan.</summary>
/// <param name="Slug">Its word.</param>
/// <param name="Summary">What it is for.</param>
/// <param name="Fields">Its options.</param>
public sealed record PartChoice(string Slug, string Summary, IReadOnlyList<FormField> Fields);

/// <summary>What can stand where in a plan, from the same records that plans and the command line are read with.</summary>
internal sealed partial class PartOptions
{
    private readonly ConcurrentDictionary<string, IReadOnlyList<PartChoice>> _known = new(StringComparer.Ordinal);
    private readonly Lazy<Dictionary<string, string>> _hints = new(ReadHints);

    /// <summary>The systems that can stand as a part: criterion, allocator, repair, quantiser, retraining, sparse-training, vision, optimizer, adaptation.</summary>
    /// <exception cref="EspalierException">For a word that is no part.</exception>
    public IReadOnlyList<PartChoice> Of(string part) => _known.GetOrAdd(part, p =>
        [.. (PlanWords.Systems(p) ?? throw new EspalierException($"'{p}' is no part of a plan; parts are criterion, allocator, repair, quantiser, retraining, sparse-training, vision, optimizer and adaptation."))
            .OrderBy(e => e.Slug, StringComparer.Ordinal).Select(e => new PartChoice(e.Slug, e.Summary, FieldsOf(e)))]);

    private FormField[] FieldsOf(CatalogueEntry entry) => entry.Implementation is not { } type ? []
        : [.. OptionField.OfSystem(type).Select(f => new FormField(f.Name, f.Kind, f.Default, f.Choices, _hints.Value.GetValueOrDefault($"P:{f.Property.DeclaringType!.FullName}.{f.Property.Name}")))];

    // The library's documentation lies beside it in a build; without it forms have no hints.
    private static Dictionary<string, string> ReadHints()
    {
        string file = Path.Combine(AppContext.BaseDirectory, "Espalier.xml");
        if (!File.Exists(file))
        {
            return [];
        }

        try
        {
            return XDocument.Load(file).Descendants("member").Where(m => m.Attribute("name")?.Value.StartsWith("P:", StringComparison.Ordinal) == true)
                .GroupBy(m => m.Attribute("name")!.Value).ToDictionary(g => g.Key, g => Plain(g.First().Element("summary")));
        }
        catch (Exception fault) when (fault is System.Xml.XmlException or IOException)
        {
            return [];
        }
    }

    private static string Plain(XElement? summary)
    {
        string text = string.Concat(summary?.DescendantNodes().Select(n => n switch { XText t => t.Value, XElement { Name.LocalName: "see" } e => e.Attribute("cref")?.Value.Split('.')[^1] ?? "", _ => "" }) ?? []);
        return Blank().Replace(text, " ").Trim();
    }

    [GeneratedRegex(@"\s+")]
    private static partial Regex Blank();
}
