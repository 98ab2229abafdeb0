namespace Espalier.Catalogue;

/// <summary>
/// Registers a published system: put it on the class that carries the system's idea, and the catalogue, the command
/// line, plans and docs know it. Nothing else has to be edited.
/// </summary>
/// <param name="slug">The word for it everywhere ("wanda").</param>
/// <param name="title">The paper's title, as in the catalogue.</param>
[AttributeUsage(AttributeTargets.Class, Inherited = false)]
public sealed class MethodAttribute(string slug, string title) : Attribute
{
    /// <summary>The word for it in C#, YAML and on the command line.</summary>
    public string Slug { get; } = slug;

    /// <summary>The title of the paper.</summary>
    public string Title { get; } = title;

    /// <summary>The family, which is also the folder ("Pruning").</summary>
    public required string Family { get; init; }

    /// <summary>Where it was published, with an identifier ("arXiv 2306.11695, ICLR 2024").</summary>
    public required string Source { get; init; }

    /// <summary>One line: what it does and when to pick it.</summary>
    public required string Summary { get; init; }

    /// <summary>The parts of a plan that it supplies or composes with ("criterion; any pattern; any allocator").</summary>
    public required string Fits { get; init; }
}

/// <summary>
/// Marks a static method <c>IReadOnlyDictionary&lt;string, Tensor&gt; Method(ParityCase)</c> as the adapter of a reference
/// operation, so that <c>espalier verify</c> runs it on the vectors of that name.
/// </summary>
/// <param name="op">The operation's full name ("wanda.mask").</param>
[AttributeUsage(AttributeTargets.Method)]
public sealed class ParityOpAttribute(string op) : Attribute
{
    /// <summary>The operation's full name.</summary>
    public string Op { get; } = op;
}
