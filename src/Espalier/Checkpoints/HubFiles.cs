using System.Text.Json;
using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>What the hub says of a repository.</summary>
/// <param name="Commit">The commit that the revision is, 40 hexadecimal digits.</param>
/// <param name="Files">The names of its files; not checked yet.</param>
internal sealed record RepositoryListing(string Commit, IReadOnlyList<string> Files)
{
    /// <summary>Reads the hub's answer.</summary>
    /// <exception cref="EspalierException">When it is not what a hub answers.</exception>
    public static RepositoryListing Parse(RepositoryId id, string endpoint, byte[] json)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(json);
            string commit = document.RootElement.GetProperty("sha").GetString() ?? string.Empty;
            if (commit.Length == 40 && commit.All(char.IsAsciiHexDigitLower))
            {
                string[] files = document.RootElement.GetProperty("siblings").EnumerateArray()
                    .Select(sibling => sibling.GetProperty("rfilename").GetString() ?? string.Empty)
                    .ToArray();
                return new RepositoryListing(commit, files);
            }
        }
        catch (Exception fault) when (fault is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            // The sentence below says it all.
        }

        throw new EspalierException($"{endpoint} does not answer like a hub when asked for {id}; check HF_ENDPOINT and any proxy in between.");
    }
}

/// <summary>Which files of a repository are downloaded, and under which names they may land on the disk.</summary>
internal static class HubFiles
{
    /// <summary>The files of a model that are needed: weights, configuration and tokeniser. Never pickles, never code.</summary>
    /// <exception cref="EspalierException">When the model's weights are pickles only.</exception>
    public static IReadOnlyList<string> OfModel(RepositoryId id, IReadOnlyList<string> all)
    {
        bool hasUsual = all.Contains(Checkpoint.SingleFileName) || all.Contains(Checkpoint.IndexFileName);
        string[] wanted = all.Where(file => IsOfModel(file) && !(hasUsual && IsSecondCopy(file))).ToArray();
        string? pickle = all.FirstOrDefault(Pickles.IsPickle);
        EspalierException.Require(
            pickle is null || wanted.Any(file => file.EndsWith(".safetensors", StringComparison.Ordinal)),
            $"{id} has no *.safetensors files. {(pickle is null ? string.Empty : Pickles.Sentence(pickle))}");
        return wanted;
    }

    /// <summary>The files of a data set that are downloaded when nothing else is asked for: all but code and pickles.</summary>
    public static bool IsOfDataset(string file) =>
        !file.EndsWith(".py", StringComparison.OrdinalIgnoreCase) && !Pickles.IsPickle(file) && !Path.GetFileName(file).StartsWith('.');

    /// <summary>Throws for a name that would land outside the snapshot's folder.</summary>
    /// <exception cref="EspalierException">The sentence names it.</exception>
    public static void CheckName(RepositoryId id, string file)
    {
        bool stays = file.Length > 0
            && file.AsSpan().IndexOfAny("\\:\0") < 0
            && file.Split('/').All(part => part.Length > 0 && part is not ("." or ".."))
            && !Path.IsPathRooted(file);
        EspalierException.Require(stays, $"The hub lists a file '{file}' of {id}, which would be written outside its folder; nothing was downloaded, do not trust this repository.");
    }

    private static bool IsOfModel(string file) =>
        file.EndsWith(".safetensors", StringComparison.Ordinal)
        || file.EndsWith(".json", StringComparison.Ordinal)
        || file.EndsWith(".txt", StringComparison.Ordinal)
        || file == "tokenizer.model"
        || file.EndsWith("/tokenizer.model", StringComparison.Ordinal);

    /// <summary>The same weights in their maker's own layout, which would double the download.</summary>
    private static bool IsSecondCopy(string file) =>
        file.StartsWith("consolidated", StringComparison.Ordinal) || file.StartsWith("original/", StringComparison.Ordinal);
}
