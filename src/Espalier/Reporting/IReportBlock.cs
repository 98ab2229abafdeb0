namespace Espalier.Reporting;

/// <summary>Something that a report page shows: a chart, a table, cards of figures.</summary>
public interface IReportBlock
{
    /// <summary>Writes itself; every text it holds is encoded on the way.</summary>
    void Write(HtmlWriter html);
}

/// <summary>Which of the page's colours a series or a figure takes.</summary>
public enum Tone
{
    /// <summary>Leaf green: the result.</summary>
    Leaf,

    /// <summary>Terracotta: what was lost or needs attention.</summary>
    Clay,

    /// <summary>Slate blue: a comparison.</summary>
    Slate,

    /// <summary>Ochre: a second comparison.</summary>
    Ochre,

    /// <summary>Grey: the state before.</summary>
    Stone,
}
