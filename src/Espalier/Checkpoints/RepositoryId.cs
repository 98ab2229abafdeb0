using System.Text.RegularExpressions;
using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>What a repository on the hub holds.</summary>
public enum RepositoryKind
{
    /// <summary>A model.</summary>
    Model,

    /// <summary>A data set.</summary>
    Dataset,
}

/// <summary>A repository on the hub at one revision: <c>org/name[@revision]</c>.</summary>
public sealed partial record RepositoryId
{
    private RepositoryId(RepositoryKind kind, string name, string revision)
    {
        Kind = kind;
        Name = name;
        Revision = revision;
    }

    /// <summary>Model or data set.</summary>
    public RepositoryKind Kind { get; }

    /// <summary>Its name with its owner's ("meta-llama/Llama-3.2-1B").</summary>
    public string Name { get; }

    /// <summary>A branch, a tag or a commit; "main" when none was given.</summary>
    public string Revision { get; }

    /// <summary>The folder in the cache ("models--org--name").</summary>
    public string FolderName => $"{Plural}--{Name.Replace("/", "--", StringComparison.Ordinal)}";

    /// <summary>"models" or "datasets", as the hub spells it in addresses and folders.</summary>
    internal string Plural => Kind == RepositoryKind.Model ? "models" : "datasets";

    /// <summary>The part of an address before "/resolve": models have none of their own.</summary>
    internal string AddressName => Kind == RepositoryKind.Model ? Name : $"datasets/{Name}";

    /// <summary>Reads an id.</summary>
    /// <param name="text"><c>org/name</c>, <c>name</c>, or either with <c>@revision</c>.</param>
    /// <param name="kind">Model or data set.</param>
    /// <exception cref="EspalierException">When it cannot be the id of a repository.</exception>
    public static RepositoryId Parse(string text, RepositoryKind kind)
    {
        string what = kind == RepositoryKind.Model ? "model" : "data set";
        string[] parts = text.Split('@', 2);
        EspalierException.Require(
            Id().IsMatch(parts[0]) && !parts[0].Contains("--", StringComparison.Ordinal) && !parts[0].Contains("..", StringComparison.Ordinal),
            $"'{text}' is neither a folder that exists nor the id of a {what} on the hub (org/name, or org/name@revision); check the spelling or the path.");
        string revision = parts.Length == 2 ? parts[1] : "main";
        EspalierException.Require(
            RevisionText().IsMatch(revision) && !revision.Contains("..", StringComparison.Ordinal) && !revision.Contains("//", StringComparison.Ordinal),
            $"'{revision}' in '{text}' cannot be a branch, a tag or a commit; write org/name@revision.");
        return new RepositoryId(kind, parts[0], revision);
    }

    /// <summary>The id as one writes it.</summary>
    public override string ToString() => Revision == "main" ? Name : $"{Name}@{Revision}";

    [GeneratedRegex(@"^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?\z")]
    private static partial Regex Id();

    [GeneratedRegex(@"^[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}(?<!/)\z")]
    private static partial Regex RevisionText();
}
