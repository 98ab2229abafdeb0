namespace Espalier.Catalogue;

/// <summary>How far a system of the catalogue is.</summary>
public enum MethodState
{
    /// <summary>Listed, but this version cannot run it.</summary>
    NotYet,

    /// <summary>Built: it can be named in plans and on the command line.</summary>
    Built,
}

/// <summary>One system of the catalogue: what was published, joined with the class that carries it.</summary>
/// <param name="Slug">The word for it in C#, YAML and on the command line ("wanda").</param>
/// <param name="Title">The title of the paper.</param>
/// <param name="Family">The family, which is also the folder ("Pruning").</param>
/// <param name="State">Whether it can be run.</param>
/// <param name="Summary">One line: what it does and when to pick it; empty while it is not built.</param>
/// <param name="Source">Where it was published; empty while it is not built.</param>
/// <param name="Fits">The parts of a plan that it supplies or composes with; empty while it is not built.</param>
/// <param name="Listed">Whether it is one of the systems of the published list; a baseline beside them (wanda, magnitude) is not.</param>
/// <param name="Implementation">The class that carries it; null while it is not built.</param>
public sealed record CatalogueEntry(
    string Slug, string Title, string Family, MethodState State, string Summary, string Source, string Fits, bool Listed, Type? Implementation);
