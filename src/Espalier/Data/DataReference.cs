using System.Text.RegularExpressions;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>
/// Names a data set as users write it: a hub id (<c>Salesforce/wikitext:wikitext-2-v1:test</c>, <c>stanfordnlp/imdb:train</c>)
/// or a file or folder (<c>texts.jsonl</c>, <c>./corpus:train</c>, <c>C:\texts\a.csv</c>). <c>#column</c> at the end names the column.
/// </summary>
public sealed partial record DataReference
{
    private static readonly string[] endings = [".txt", ".gz", .. Table.Extensions];

    /// <summary>The hub id or the path.</summary>
    public required string Source { get; init; }

    /// <summary>True for a file or folder, false for a hub id.</summary>
    public required bool IsPath { get; init; }

    /// <summary>The configuration ("wikitext-2-v1"); null when not named.</summary>
    public string? Config { get; init; }

    /// <summary>The split ("train"); null when not named.</summary>
    public string? Split { get; init; }

    /// <summary>The column that holds the text or the images; null for the usual one.</summary>
    public string? Column { get; init; }

    /// <summary>Reads a reference.</summary>
    /// <param name="text">As users write it.</param>
    /// <param name="column">The column, where an option of its own names it; wins over <c>#column</c>.</param>
    /// <exception cref="EspalierException">When it has too many or empty parts.</exception>
    public static DataReference Parse(string text, string? column = null)
    {
        string rest = text.Trim();
        EspalierException.Require(rest.Length > 0, "A data set must be named: a file, a folder, or a hub id such as Salesforce/wikitext:wikitext-2-v1:test.");
        if (Exists(rest))
        {
            return new DataReference { Source = rest, IsPath = true, Column = column };
        }

        int mark = rest.LastIndexOf('#');
        if (mark > 0)
        {
            column ??= rest[(mark + 1)..];
            rest = rest[..mark];
            EspalierException.Require(column.Length > 0, $"The data set \"{text}\" names no column after '#'.");
        }

        // The colon of C:\texts is part of the path.
        int from = DriveLetter().IsMatch(rest) ? 2 : 0;
        string[] parts = rest[from..].Split(':');
        parts[0] = rest[..from] + parts[0];
        EspalierException.Require(parts.Length <= 3 && parts.All(p => p.Length > 0), $"The data set \"{text}\" cannot be read: write id:config:split, path:split or just one of id and path.");
        return new DataReference
        {
            Source = parts[0],
            IsPath = from > 0 || Exists(parts[0]) || !HubId().IsMatch(parts[0]) || endings.Contains(Path.GetExtension(parts[0]).ToLowerInvariant()),
            Config = parts.Length == 3 ? parts[1] : null,
            Split = parts.Length > 1 ? parts[^1] : null,
            Column = column,
        };
    }

    /// <summary>As users write it.</summary>
    public override string ToString() => string.Join(':', new[] { Source, Config, Split }.Where(p => p is not null)) + (Column is null ? "" : $"#{Column}");

    private static bool Exists(string path) => File.Exists(path) || Directory.Exists(path);

    [GeneratedRegex(@"^[A-Za-z]:[\\/]")]
    private static partial Regex DriveLetter();

    // A name, or an organisation and a name; neither begins with a dot, so ./here and ../there are paths.
    [GeneratedRegex(@"^[A-Za-z0-9_][\w.\-]*(/[A-Za-z0-9_][\w.\-]*)?$")]
    private static partial Regex HubId();
}
