using System.Text.Json.Nodes;
using Espalier.Runtime;

namespace Espalier.Models;

/// <summary>What a family's config.json calls the sizes of a model; of several names for one size the first is usual.</summary>
/// <param name="Hidden">The width of the residual stream.</param>
/// <param name="Layers">The number of blocks.</param>
/// <param name="Heads">Query heads per block.</param>
/// <param name="Neurons">The width of the feed-forward part.</param>
/// <param name="KeyValueHeads">Key and value heads per block; null where the family has no grouped queries.</param>
internal sealed record SizeFields(string[] Hidden, string[] Layers, string[] Heads, string[] Neurons, string? KeyValueHeads = null);

/// <summary>The sizes of a model that structured pruning makes from a larger one.</summary>
/// <param name="Hidden">The width of the residual stream.</param>
/// <param name="Layers">The numbers of the blocks that stay, ascending.</param>
/// <param name="Blocks">Their shapes.</param>
public sealed record ModelSize(int Hidden, IReadOnlyList<int> Layers, IReadOnlyList<BlockShape> Blocks)
{
    /// <summary>The sizes that a model has.</summary>
    public static ModelSize Of(ModelConfig c) =>
        new(c.HiddenSize, [.. Enumerable.Range(0, c.LayerCount)], [.. Enumerable.Range(0, c.LayerCount).Select(c.ShapeOf)]);

    /// <summary>Whether all blocks are alike.</summary>
    public bool IsUniform => Blocks.Distinct().Count() == 1;

    /// <summary>Whether the family's published code can load a model of these sizes from its plain keys.</summary>
    /// <param name="c">The model that is cut.</param>
    public bool IsPlain(ModelConfig c) => IsUniform && (Architecture.For(c).ReadsHeadWidth || SharesOut(c));

    /// <summary>The configuration of the smaller model: the family's plain keys, and <c>block_shapes</c> where blocks differ.</summary>
    /// <param name="c">The configuration of the model that is cut.</param>
    /// <exception cref="EspalierException">When the family cannot have such sizes.</exception>
    public ModelConfig Apply(ModelConfig c)
    {
        Architecture family = Architecture.For(c);
        SizeFields names = family.Sizes;
        BlockShape widest = new(Blocks.Max(b => b.Heads), Blocks.Max(b => b.KeyValueHeads), Blocks.Max(b => b.Neurons));
        var changes = new List<(string, JsonNode?)>();
        Set(names.Hidden, Hidden);
        Set(names.Layers, Layers.Count);
        Set(names.Heads, widest.Heads);
        Set(names.Neurons, widest.Neurons);
        if (names.KeyValueHeads is { } keyValueHeads)
        {
            Set([keyValueHeads], widest.KeyValueHeads);
        }

        if (!SharesOut(c) || c.Fields.Has("head_dim"))
        {
            changes.Add(("head_dim", c.HeadDim));
        }

        if (Layers.Count < c.LayerCount)
        {
            changes.AddRange(family.FieldsOfLayers(c, Layers));
        }

        // OPT's token table has a width of its own, which is the model's unless a projection lies between.
        if (c.Fields.Optional("word_embed_proj_dim") is { } tokens)
        {
            EspalierException.Require(tokens == c.HiddenSize || tokens != Hidden, $"{c.Fields.Origin}: a width of {Hidden} is that of the token table, so the projection between them would vanish; choose another.");
            changes.Add(("word_embed_proj_dim", tokens == c.HiddenSize ? Hidden : tokens));
        }

        changes.Add(("block_shapes", IsUniform ? null : new JsonArray([.. Blocks.Select(b => new JsonObject
        {
            ["num_attention_heads"] = b.Heads, ["num_key_value_heads"] = b.KeyValueHeads, ["intermediate_size"] = b.Neurons,
        })])));
        return c.With(changes);

        // Written even where it stayed: a default may follow from another size (GPT-2's neurons from its width).
        void Set(string[] known, int value)
        {
            string[] there = [.. known.Where(c.Fields.Has)];
            changes.AddRange((there.Length > 0 ? there : [known[0]]).Select(name => (name, (JsonNode?)value)));
        }
    }

    // Whether the width of a head is still the quotient that a loader without head_dim takes.
    private bool SharesOut(ModelConfig c) => Blocks.Max(b => b.Heads) is var heads && Hidden % heads == 0 && Hidden / heads == c.HeadDim;
}
