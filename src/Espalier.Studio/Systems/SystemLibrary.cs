using System.Text.RegularExpressions;
using Espalier.Catalogue;
using Espalier.Reporting;
using Espalier.Runtime;
using Markdig;
using Markdig.Extensions.Tables;
using Markdig.Renderers;
using Markdig.Syntax;

namespace Espalier.Studio.Systems;

/// <summary>One system as the studio shows it.</summary>
/// <param name="Slug">Its word.</param>
/// <param name="Title">The paper's title.</param>
/// <param name="Family">Its family.</param>
/// <param name="State">Whether it can be run.</param>
/// <param name="Summary">What it is for; empty while it is not built.</param>
/// <param name="Source">Where it was published.</param>
/// <param name="Fits">What it composes with.</param>
/// <param name="Listed">Whether it is of the published list; a baseline is not.</param>
/// <param name="Verdicts">What its page says its reproductions came to ("shown").</param>
public sealed record SystemCard(string Slug, string Title, string Family, MethodState State, string Summary, string Source, string Fits, bool Listed, IReadOnlyList<string> Verdicts);

/// <summary>The catalogue with the pages of the systems, searched by what they say.</summary>
internal sealed partial class SystemLibrary
{
    private readonly Dictionary<string, string> _pages = new(StringComparer.OrdinalIgnoreCase);
    private readonly DescriptionIndex _index;
    private readonly MarkdownPipeline _markdown = new MarkdownPipelineBuilder().UsePipeTables().UseEmphasisExtras().DisableHtml().Build();

    public SystemLibrary()
    {
        foreach (string name in typeof(SystemLibrary).Assembly.GetManifestResourceNames().Where(n => n.StartsWith("systems/", StringComparison.Ordinal)))
        {
            using var reader = new StreamReader(typeof(SystemLibrary).Assembly.GetManifestResourceStream(name)!);
            _pages[Path.GetFileNameWithoutExtension(name)] = reader.ReadToEnd();
        }

        Cards = [.. MethodCatalogue.Default.Entries.Select(e => new SystemCard(e.Slug, e.Title, e.Family, e.State, e.Summary, e.Source, e.Fits, e.Listed,
            [.. Verdict().Matches(_pages.GetValueOrDefault(e.Slug, "")).Select(m => m.Groups[1].Value)]))];
        _index = new DescriptionIndex(Cards.Select(c => (IReadOnlyList<(string, double)>)
            [(c.Slug, 4), (c.Title, 3), (c.Family, 3), (c.Summary, 2), (c.Fits, 1), (Introduction(c.Slug), 0.25)]));
    }

    /// <summary>All systems in the catalogue's order.</summary>
    public IReadOnlyList<SystemCard> Cards { get; }

    /// <summary>The families, with how many systems each has.</summary>
    public IReadOnlyList<(string Family, int Count)> Families => [.. Cards.GroupBy(c => c.Family).Select(g => (g.Key, g.Count())).OrderBy(g => g.Key, StringComparer.Ordinal)];

    /// <summary>A system by its word.</summary>
    /// <exception cref="EspalierException">When there is none.</exception>
    public SystemCard this[string slug] => Cards[Place(slug)];

    /// <summary>The systems that a question is about, the best first; all where nothing is asked.</summary>
    /// <param name="question">Words as a person asks.</param>
    /// <param name="family">Only of this family; null or empty for all.</param>
    /// <param name="state">Only in this state; null for all.</param>
    public IReadOnlyList<SystemCard> Find(string? question, string? family = null, MethodState? state = null)
    {
        IEnumerable<SystemCard> found = string.IsNullOrWhiteSpace(question) ? Cards : _index.Find(question).Select(f => Cards[f.Place]);
        return [.. found.Where(c => (string.IsNullOrEmpty(family) || c.Family.Equals(family, StringComparison.OrdinalIgnoreCase)) && (state is null || c.State == state))];
    }

    /// <summary>The systems most like one.</summary>
    public IReadOnlyList<SystemCard> Like(string slug, int most = 5) => [.. _index.Like(Place(slug)).Take(most).Select(f => Cards[f.Place])];

    /// <summary>The page of a system as markup without its heading, its measured tables drawn as well; null where none is written.</summary>
    public string? Page(string slug)
    {
        if (!_pages.TryGetValue(slug, out string? page))
        {
            return null;
        }

        MarkdownDocument document = Markdown.Parse(page.StartsWith('#') ? page[(page.IndexOf('\n', StringComparison.Ordinal) + 1)..] : page, _markdown);
        using var html = new StringWriter();
        var renderer = new HtmlRenderer(html);
        _markdown.Setup(renderer);
        foreach (Block block in document)
        {
            if (block is Table table)
            {
                foreach (IReportBlock figure in MeasuredFigures.Of(table, slug))
                {
                    var drawn = new HtmlWriter();
                    figure.Write(drawn);
                    html.Write(drawn);
                }
            }

            html.Write(block is Table ? "<div class=\"table\">" : "");
            renderer.Render(block);
            html.Write(block is Table ? "</div>" : "");
        }

        return Link().Replace(html.ToString(), m => _pages.ContainsKey(m.Groups[1].Value) ? $"<a href=\"/systems/{m.Groups[1].Value}\">{m.Groups[2].Value}</a>" : m.Groups[2].Value);
    }

    // What the page says before its first measurements: numbers say nothing about what a system is for.
    private string Introduction(string slug)
    {
        string page = _pages.GetValueOrDefault(slug, "");
        int end = page.IndexOf("## Measured", StringComparison.Ordinal);
        return end < 0 ? page : page[..end];
    }

    private int Place(string slug)
    {
        int place = Enumerable.Range(0, Cards.Count).FirstOrDefault(i => Cards[i].Slug.Equals(slug, StringComparison.OrdinalIgnoreCase), -1);
        EspalierException.Require(place >= 0, $"The catalogue has no system '{slug}'.{NearestWord.Suggest(slug, Cards.Select(c => c.Slug))}");
        return place;
    }

    [GeneratedRegex(@"^Verdict: \*\*([a-z ]+)\*\*", RegexOptions.Multiline)]
    private static partial Regex Verdict();

    // Pages link to each other and to the rest of the docs; the latter are not here.
    [GeneratedRegex("<a href=\"(?:\\.\\./)?(?:systems/)?([^\":]*?)(?:\\.md)?(?:#[^\"]*)?\">(.*?)</a>")]
    private static partial Regex Link();
}
