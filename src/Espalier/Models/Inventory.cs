using Espalier.Checkpoints;
using Espalier.Runtime;

namespace Espalier.Models;

/// <summary>Compares what a checkpoint holds with what the model needs, before anything is read.</summary>
internal static class Inventory
{
    private const int Shown = 5;

    /// <summary>Checks names and shapes of every tensor without taking memory for any.</summary>
    /// <param name="family">The model's family.</param>
    /// <param name="config">Its shape, with the prefix that the checkpoint uses.</param>
    /// <param name="source">The checkpoint.</param>
    /// <returns>The names of every block's tensors.</returns>
    /// <exception cref="EspalierException">Naming what is missing, unknown or of another shape: up to five of each, and how many there are.</exception>
    public static IReadOnlyList<IReadOnlyList<string>> Require(Architecture family, ModelConfig config, ITensorSource source)
    {
        // Before the parts are made: a number of blocks can be written that would take forever.
        EspalierException.Require(config.LayerCount <= source.Names.Count,
            $"The checkpoint does not fit {config.Fields.Origin} ({config.ModelType}): that speaks of {config.LayerCount} blocks, and there are only {source.Names.Count} tensors. Check that {ModelConfig.FileName} and the tensors come from the same model.");
        var needed = new Dictionary<string, long[]>(StringComparer.Ordinal);
        var blocks = new List<IReadOnlyList<string>>();
        using Embedding embedding = family.CreateEmbedding(config, Placement.Meta);
        Note(embedding, needed);
        for (int i = 0; i < config.LayerCount; i++)
        {
            using DecoderBlock block = family.CreateBlock(config, i, Placement.Meta);
            blocks.Add(Note(block, needed));
        }

        using (OutputHead head = family.CreateHead(config, embedding, Placement.Meta))
        {
            Note(head, needed);
        }

        List<string> missing = [.. needed.Keys.Where(name => !source.Contains(name))];
        List<string> unknown = [.. source.Names.Where(name => !needed.ContainsKey(name) && !family.Ignores(config, name))];
        List<string> misshapen = [.. needed.Where(n => source.Contains(n.Key) && !source.Info(n.Key).Shape.SequenceEqual(n.Value))
            .Select(n => $"{n.Key} is {Format(source.Info(n.Key).Shape)} instead of {Format(n.Value)}")];
        if (missing.Count + unknown.Count + misshapen.Count > 0)
        {
            List<string> faults = [];
            Tell(faults, missing, "is missing", "are missing");
            Tell(faults, unknown, "is unknown", "are unknown");
            Tell(faults, misshapen, "has another shape", "have another shape");
            throw new EspalierException($"The checkpoint does not fit {config.Fields.Origin} ({config.ModelType}): {string.Join("; ", faults)}. Check that {ModelConfig.FileName} and the tensors come from the same model.");
        }

        return blocks;
    }

    private static List<string> Note(ModelPart part, Dictionary<string, long[]> needed)
    {
        var names = new List<string>();
        foreach ((string name, var value) in part.Tensors)
        {
            needed.Add(name, value.shape);
            names.Add(name);
        }

        return names;
    }

    private static void Tell(List<string> faults, List<string> found, string one, string many)
    {
        if (found.Count > 0)
        {
            string more = found.Count > Shown ? $" and {found.Count - Shown} more" : "";
            faults.Add($"{found.Count} tensor{(found.Count == 1 ? "" : "s")} {(found.Count == 1 ? one : many)} ({string.Join(", ", found.Take(Shown))}{more})");
        }
    }

    private static string Format(IEnumerable<long> shape) => $"[{string.Join(", ", shape)}]";
}
