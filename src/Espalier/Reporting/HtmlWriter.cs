using System.Net;
using System.Text;

namespace Espalier.Reporting;

/// <summary>Builds the markup of a page. Text goes in encoded; only this room's own blocks write tags.</summary>
public sealed class HtmlWriter
{
    private readonly StringBuilder _text = new();

    /// <summary>Whether what is written now shares its row with another block, so that charts draw themselves narrow.</summary>
    internal bool Narrow { get; set; }

    /// <summary>Writes text, encoded.</summary>
    public HtmlWriter Text(string text)
    {
        _text.Append(Encode(text));
        return this;
    }

    /// <summary>Writes an element with encoded text in it.</summary>
    /// <param name="tag">The element's name.</param>
    /// <param name="text">What it holds.</param>
    /// <param name="cssClass">Its class; null for none.</param>
    public HtmlWriter Element(string tag, string text, string? cssClass = null) =>
        Markup(cssClass is null ? $"<{tag}>" : $"<{tag} class=\"{cssClass}\">").Text(text).Markup($"</{tag}>");

    /// <inheritdoc/>
    public override string ToString() => _text.ToString();

    /// <summary>Writes markup as it is.</summary>
    internal HtmlWriter Markup(string markup)
    {
        _text.Append(markup);
        return this;
    }

    /// <summary>Text as it may stand in an element or a quoted attribute.</summary>
    internal static string Encode(string text) => WebUtility.HtmlEncode(text);
}
