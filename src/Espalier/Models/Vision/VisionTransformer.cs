using Espalier.Runtime;

namespace Espalier.Models.Vision;

/// <summary>
/// ViT (Dosovitskiy et al. 2021) with timm's names, as deit_tiny_patch16_224: pre-norm blocks, fused queries, keys and values, a class
/// token. Fields (defaults of DeiT-tiny): <c>patch_size</c> 16, <c>embed_dim</c> 192, <c>depth</c> 12, <c>num_heads</c> 3, <c>mlp_dim</c> 4·embed_dim, <c>last_num_heads</c>
/// (of the last block) num_heads. Heads and neurons can be cut; the stream of tokens cannot.
/// </summary>
internal static class VisionTransformer
{
    /// <summary>The standard deviation of new weights, customary for ViT.</summary>
    public const double Deviation = 0.02;

    public static void Build(VisionGraph graph, VisionConfig config)
    {
        ConfigFields fields = config.Fields;
        int patch = fields.PositiveOr(16, "patch_size"), width = fields.PositiveOr(192, "embed_dim"), heads = fields.PositiveOr(3, "num_heads");
        int neurons = fields.PositiveOr(4 * width, "mlp_dim");
        EspalierException.Require(config.ImageSize % patch == 0, $"{fields.Origin}: images of {config.ImageSize} pixels cannot be divided into patches of {patch}.");
        EspalierException.Require(width % heads == 0, $"{fields.Origin}: 'embed_dim' {width} cannot be shared out among {heads} heads.");
        int depth = fields.PositiveOr(12, "depth"), lastHeads = fields.PositiveOr(heads, "last_num_heads");
        EspalierException.Require(width % lastHeads == 0, $"{fields.Origin}: 'embed_dim' {width} cannot be shared out among the {lastHeads} heads of the last block.");
        VisionLayer x = graph.Tokens(graph.Conv("patch_embed.proj", graph.Input, width, patch, patch, bias: true, gain: 1));
        for (int i = 0; i < depth; i++)
        {
            int size = width / (i == depth - 1 ? lastHeads : heads);
            string name = $"blocks.{i}";
            VisionLayer y = Linear($"{name}.attn.qkv", graph.LayerNorm($"{name}.norm1", x), 3 * width);
            x = graph.Add(Linear($"{name}.attn.proj", graph.Attention($"{name}.attn", y, size), width), x);
            y = graph.Gelu(Linear($"{name}.mlp.fc1", graph.LayerNorm($"{name}.norm2", x), neurons));
            x = graph.Add(Linear($"{name}.mlp.fc2", y, width), x);
        }

        graph.Output(Linear("head", graph.ClassToken(graph.LayerNorm("norm", x)), config.Classes));

        VisionLayer Linear(string name, VisionLayer input, int features) =>
            graph.Linear(name, input, features, gain: Deviation * Deviation * input.Shape.Channels);
    }
}
