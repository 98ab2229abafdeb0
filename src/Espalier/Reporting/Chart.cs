namespace Espalier.Reporting;

/// <summary>What all charts share: a heading, a remark, and a drawing at the width that the place has.</summary>
public abstract class Chart : IReportBlock
{
    private const double WideWidth = 960, HalfWidth = 460, PhoneWidth = 380;

    /// <summary>What the chart shows.</summary>
    public required string Title { get; init; }

    /// <summary>A sentence under the drawing that says what to see in it; null for none.</summary>
    public string? Note { get; init; }

    /// <inheritdoc/>
    public void Write(HtmlWriter html)
    {
        html.Markup("<figure class=\"chart\"><figcaption>").Element("h3", Title);
        Legend(html);
        html.Markup("</figcaption>");
        if (IsEmpty)
        {
            html.Element("p", "nothing was measured", "note");
        }
        else
        {
            // Drawn once for each width rather than scaled: letters keep their size on a phone.
            html.Markup(Draw(html.Narrow ? HalfWidth : WideWidth).ToMarkup(Description, "wide"))
                .Markup(Draw(PhoneWidth).ToMarkup(Description, "phone"));
        }

        if (Note is not null)
        {
            html.Element("p", Note, "note");
        }

        html.Markup("</figure>\n");
    }

    /// <summary>The chart in words, for those who cannot see it.</summary>
    protected abstract string Description { get; }

    /// <summary>Whether there is nothing to draw.</summary>
    protected abstract bool IsEmpty { get; }

    /// <summary>The series that the legend names; one alone needs none.</summary>
    private protected virtual IReadOnlyList<(string Name, Tone Tone)> Keys => [];

    private protected abstract Svg Draw(double width);

    /// <summary>A legend other than named colours.</summary>
    private protected virtual void Legend(HtmlWriter html)
    {
        if (Keys.Count < 2)
        {
            return;
        }

        html.Markup("<ul class=\"legend\">");
        foreach ((string name, Tone tone) in Keys)
        {
            html.Markup($"<li class=\"{Svg.ToneClass(tone)}\">").Text(name).Markup("</li>");
        }

        html.Markup("</ul>");
    }
}
