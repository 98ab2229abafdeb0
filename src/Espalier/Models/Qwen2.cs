using System.Text.Json.Nodes;
using Espalier.Runtime;

namespace Espalier.Models;

/// <summary>Qwen2 (Yang et al. 2024): Llama with biases on queries, keys and values, and windows in the upper blocks when asked for.</summary>
internal class Qwen2 : Llama
{
    public override string ModelType => "qwen2";

    internal override ModelConfig ReadConfig(ConfigFields fields) => Checked(ReadConfig(fields, defaultHeadDim: null, defaultKeyValueHeads: 32));

    internal override string? ReaderBiasField(bool attention) => null;

    protected internal override Traits TraitsOf(ModelConfig c, int index) => new(QueryKeyValueBias: true, Window: WindowOf(c, index));

    /// <summary>Reads the window of every block once, so that faults show before any work.</summary>
    protected static ModelConfig Checked(ModelConfig config)
    {
        for (int i = 0; i < config.LayerCount; i++)
        {
            WindowOf(config, i);
        }

        return config;
    }

    /// <summary>With <c>use_sliding_window</c>, blocks from <c>max_window_layers</c> on see a window; <c>layer_types</c> says so block by block.</summary>
    protected static int? WindowOf(ModelConfig c, int index)
    {
        if (!c.Fields.Flag("use_sliding_window", false) || (c.Fields.Mentions("sliding_window") && !c.Fields.Has("sliding_window")))
        {
            return null;
        }

        int window = c.Fields.PositiveOr(4096, "sliding_window");
        if (c.Fields.List("layer_types") is { } types)
        {
            EspalierException.Require(types.Count == c.LayerCount, $"{c.Fields.Origin}: 'layer_types' has {types.Count} entries for {c.LayerCount} blocks; it needs one for each.");
            return KindOf(c, types[index]) == "sliding_attention" ? window : null;
        }

        return index >= (c.Fields.Optional("max_window_layers", least: 0) ?? 28) ? window : null;
    }

    // Without a list of kinds, the blocks below a number see everything; that number counts the blocks that stay.
    internal override IEnumerable<(string Name, JsonNode? Value)> FieldsOfLayers(ModelConfig c, IReadOnlyList<int> kept) =>
        c.Fields.Flag("use_sliding_window", false) && !c.Fields.Has("layer_types")
            ? [("max_window_layers", kept.Count(i => WindowOf(c, i) is null))]
            : base.FieldsOfLayers(c, kept);

    private static string KindOf(ModelConfig c, JsonNode? type)
    {
        string kind = type?.ToString() ?? "null";
        EspalierException.Require(kind is "sliding_attention" or "full_attention", $"{c.Fields.Origin}: '{kind}' in 'layer_types' is not supported; supported are full_attention and sliding_attention.");
        return kind;
    }
}
