namespace Espalier.Reporting;

/// <summary>A paragraph.</summary>
/// <param name="text">Its text.</param>
public sealed class Paragraph(string text) : IReportBlock
{
    /// <inheritdoc/>
    public void Write(HtmlWriter html) => html.Element("p", text).Markup("\n");
}

/// <summary>Sentences that must not be overlooked, such as warnings.</summary>
/// <param name="lines">One sentence each; none shows nothing.</param>
public sealed class Callout(params IReadOnlyList<string> lines) : IReportBlock
{
    /// <inheritdoc/>
    public void Write(HtmlWriter html)
    {
        if (lines.Count == 0)
        {
            return;
        }

        html.Markup("<div class=\"callout\" role=\"note\">");
        foreach (string line in lines)
        {
            html.Element("p", line);
        }

        html.Markup("</div>\n");
    }
}

/// <summary>Text in a fixed-width font with a button that copies it (a plan, a command).</summary>
/// <param name="caption">What it is ("plan.yaml").</param>
/// <param name="text">The text.</param>
public sealed class CodeBlock(string caption, string text) : IReportBlock
{
    /// <inheritdoc/>
    public void Write(HtmlWriter html) => html
        .Markup("<figure class=\"code\"><figcaption>").Text(caption)
        .Markup("<button type=\"button\" class=\"copy\">Copy</button></figcaption><pre tabindex=\"0\"><code>")
        .Text(text.TrimEnd()).Markup("</code></pre></figure>\n");
}

/// <summary>What is there for those who look: closed until it is opened.</summary>
/// <param name="summary">The line that opens it.</param>
/// <param name="blocks">What it holds.</param>
public sealed class Details(string summary, params IReadOnlyList<IReportBlock> blocks) : IReportBlock
{
    /// <inheritdoc/>
    public void Write(HtmlWriter html)
    {
        html.Markup("<details>").Element("summary", summary).Markup("<div class=\"inside\">\n");
        foreach (IReportBlock block in blocks)
        {
            block.Write(html);
        }

        html.Markup("</div></details>\n");
    }
}

/// <summary>Two blocks side by side; below one another on a narrow screen.</summary>
/// <param name="left">The left one.</param>
/// <param name="right">The right one.</param>
public sealed class SideBySide(IReportBlock left, IReportBlock right) : IReportBlock
{
    /// <inheritdoc/>
    public void Write(HtmlWriter html)
    {
        bool outer = html.Narrow;
        html.Narrow = true;
        html.Markup("<div class=\"pair\"><div>");
        left.Write(html);
        html.Markup("</div><div>");
        right.Write(html);
        html.Markup("</div></div>\n");
        html.Narrow = outer;
    }
}

/// <summary>A prompt and what several models made of it, side by side.</summary>
/// <param name="Prompt">The prompt.</param>
/// <param name="Continuations">What followed, by model, in the order to be shown.</param>
public sealed record TextComparison(string Prompt, IReadOnlyList<(string Model, string Text)> Continuations);

/// <summary>Text samples side by side, so that a person can read what changed.</summary>
/// <param name="samples">The prompts with their continuations.</param>
public sealed class TextSamples(IReadOnlyList<TextComparison> samples) : IReportBlock
{
    /// <inheritdoc/>
    public void Write(HtmlWriter html)
    {
        foreach (TextComparison sample in samples)
        {
            html.Markup("<article class=\"sample\">").Element("p", sample.Prompt, "prompt").Markup("<div class=\"voices\">");
            foreach ((string model, string text) in sample.Continuations)
            {
                html.Markup("<div>").Element("h3", model).Markup("<blockquote>").Element("span", sample.Prompt.TrimEnd() + " ", "given")
                    .Text(text.Trim()).Markup("</blockquote></div>");
            }

            html.Markup("</div></article>\n");
        }
    }
}
