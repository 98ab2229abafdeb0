using Espalier.Checkpoints;

namespace Espalier.Reporting;

/// <summary>
/// One self-contained page: no other file, font or address is needed to look at it, in light and in dark, on a wide
/// screen and on a narrow one.
/// </summary>
/// <param name="title">What the report is about ("llama-50").</param>
/// <param name="headline">The result in one sentence.</param>
public sealed class ReportPage(string title, string headline)
{
    private readonly List<IReportBlock> _blocks = [];

    /// <summary>A line above the title ("espalier prune · 26 November 2026"); null for none.</summary>
    public string? Kicker { get; init; }

    /// <summary>A line at the foot: the machine, versions; null for none.</summary>
    public string? Footer { get; init; }

    /// <summary>Adds a block at the end.</summary>
    public ReportPage Add(IReportBlock block)
    {
        _blocks.Add(block);
        return this;
    }

    /// <summary>Adds a section of several blocks under one heading.</summary>
    /// <param name="heading">Its heading.</param>
    /// <param name="lead">A sentence that says what to look for; null for none.</param>
    /// <param name="blocks">What it holds; an empty section is left out.</param>
    public ReportPage Section(string heading, string? lead, params IReadOnlyList<IReportBlock> blocks) =>
        blocks.Count == 0 ? this : Add(new SectionBlock(heading, lead, blocks));

    /// <summary>The whole page.</summary>
    public string ToHtml()
    {
        var html = new HtmlWriter();
        html.Markup("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
            .Markup("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n")
            .Markup("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n")
            .Element("title", title).Markup("\n<style>\n").Markup(PageStyle.Css).Markup("</style>\n</head>\n<body>\n<main>\n<header>\n")
            .Markup(PageStyle.Mark);
        if (Kicker is not null)
        {
            html.Element("p", Kicker, "kicker");
        }

        html.Element("h1", title).Element("p", headline, "headline").Markup("\n</header>\n");
        foreach (IReportBlock block in _blocks)
        {
            block.Write(html);
        }

        html.Markup("</main>\n");
        if (Footer is not null)
        {
            html.Markup("<footer>").Text(Footer).Markup("</footer>\n");
        }

        return html.Markup($"<script>\n{PageStyle.Script}</script>\n</body>\n</html>\n").ToString();
    }

    /// <summary>Writes the page, all or nothing.</summary>
    /// <param name="path">The file, usually <c>report.html</c>.</param>
    /// <exception cref="Runtime.EspalierException">When it cannot be written.</exception>
    public void Save(string path) => AtomicFile.WriteText(path, ToHtml());

    private sealed class SectionBlock(string heading, string? lead, IReadOnlyList<IReportBlock> blocks) : IReportBlock
    {
        public void Write(HtmlWriter html)
        {
            html.Markup("<section>\n").Element("h2", heading);
            if (lead is not null)
            {
                html.Element("p", lead, "lead");
            }

            foreach (IReportBlock block in blocks)
            {
                block.Write(html);
            }

            html.Markup("</section>\n");
        }
    }
}
