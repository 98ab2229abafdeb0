using System.Text.Json.Nodes;
using Espalier.Checkpoints;
using Espalier.Runtime;

namespace Espalier.Models;

/// <summary>A family of decoder language models: reads its configuration and makes the parts. One file per family.</summary>
public abstract class Architecture
{
    private static readonly Dictionary<string, Architecture> Families =
        new Architecture[] { new Llama(), new Mistral(), new Qwen2(), new Qwen3(), new Opt(), new Gpt2(), new GptNeoX() }.ToDictionary(a => a.ModelType, StringComparer.Ordinal);

    /// <summary>The families that are known, by their <c>model_type</c>.</summary>
    public static IReadOnlyCollection<string> Known => Families.Keys;

    /// <summary>The <c>model_type</c> of the family.</summary>
    public abstract string ModelType { get; }

    /// <summary>What may stand before the names of the body's tensors; the first is usual.</summary>
    public abstract IReadOnlyList<string> Prefixes { get; }

    /// <summary>The family of a configuration.</summary>
    /// <exception cref="EspalierException">When the family is not known.</exception>
    public static Architecture For(ModelConfig config) => Named(config.ModelType, config.Fields.Origin);

    /// <summary>Makes the embedding, its parameters unset.</summary>
    /// <param name="c">The model's shape.</param>
    /// <param name="placement">Where the parameters live; null is float32 on the CPU.</param>
    public abstract Embedding CreateEmbedding(ModelConfig c, Placement? placement = null);

    /// <summary>Makes one decoder block, its parameters unset.</summary>
    /// <param name="c">The model's shape.</param>
    /// <param name="index">The block's number, from 0.</param>
    /// <param name="placement">Where the parameters live; null is float32 on the CPU.</param>
    public abstract DecoderBlock CreateBlock(ModelConfig c, int index, Placement? placement = null);

    /// <summary>Makes the head, its parameters unset.</summary>
    /// <param name="c">The model's shape.</param>
    /// <param name="embedding">Whose token table a tied head reads; it must outlive the head.</param>
    /// <param name="placement">Where the parameters live; null is float32 on the CPU.</param>
    public abstract OutputHead CreateHead(ModelConfig c, Embedding embedding, Placement? placement = null);

    /// <summary>Names in checkpoints that hold nothing learned (masks, frequencies, a tied head written twice); * stands for anything.</summary>
    public abstract IReadOnlyList<string> Ignorable(ModelConfig c);

    /// <summary>Whether a tensor that no part asks for may be there.</summary>
    public bool Ignores(ModelConfig c, string name) =>
        Ignorable(c).Any(pattern => System.IO.Enumeration.FileSystemName.MatchesSimpleExpression(pattern, name, ignoreCase: false));

    /// <summary>The configuration with the name prefix that this checkpoint uses.</summary>
    public ModelConfig Recognize(ModelConfig c, ITensorSource source)
    {
        string probe = FirstTensor(c)[c.TensorPrefix.Length..];
        string? prefix = Prefixes.FirstOrDefault(p => source.Contains(p + probe));
        return prefix is null ? c : c with { TensorPrefix = prefix };
    }

    /// <summary>The configuration in which the maps that read heads or neurons have a bias. While the biases that this adds are 0, the function is the same.</summary>
    /// <param name="c">The model.</param>
    /// <param name="attention">A bias on the attention's output map.</param>
    /// <param name="feedForward">A bias on the last map of the feed-forward part.</param>
    /// <exception cref="EspalierException">Where the family's published code has no such bias, so that no other program could load it.</exception>
    public ModelConfig WithReaderBiases(ModelConfig c, bool attention, bool feedForward)
    {
        foreach (bool ofAttention in (bool[])[true, false])
        {
            if (ofAttention ? attention : feedForward)
            {
                string? field = ReaderBiasField(ofAttention);
                EspalierException.Require(field is not null,
                    $"{ModelType} models have no bias on {(ofAttention ? "the attention's output" : "the feed-forward part's output")}, so other programs could not load one; leave the bias compensation out (repair: none).");
                c = field.Length == 0 || c.Fields.Flag(field, false) ? c : c.With(field, true);
            }
        }

        return c;
    }

    /// <summary>All parameters of such a model; tied ones count once.</summary>
    public long ParameterCount(ModelConfig c)
    {
        using Embedding embedding = CreateEmbedding(c, Placement.Meta);
        using OutputHead head = CreateHead(c, embedding, Placement.Meta);
        return embedding.ParameterCount + head.ParameterCount + BlockParameterCount(c);
    }

    /// <summary>The parameters of all decoder blocks of such a model.</summary>
    public long BlockParameterCount(ModelConfig c) => Enumerable.Range(0, c.LayerCount).Sum(i =>
    {
        using DecoderBlock block = CreateBlock(c, i, Placement.Meta);
        return block.ParameterCount;
    });

    /// <summary>What config.json calls the sizes; of several names for one size the first is usual.</summary>
    internal abstract SizeFields Sizes { get; }

    /// <summary>Whether the family's published code takes the width of a head from <c>head_dim</c>; else it is the hidden width shared out among the heads.</summary>
    internal abstract bool ReadsHeadWidth { get; }

    /// <summary>The flag of config.json that gives the map that reads heads (or neurons) a bias: empty where it always has one, null where it cannot.</summary>
    internal abstract string? ReaderBiasField(bool attention);

    /// <summary>The fields that change, beside the number of layers, when only some layers stay.</summary>
    /// <param name="c">The model.</param>
    /// <param name="kept">The numbers of the layers that stay, ascending.</param>
    /// <exception cref="EspalierException">Where a layer computes another function at another place.</exception>
    internal virtual IEnumerable<(string Name, JsonNode? Value)> FieldsOfLayers(ModelConfig c, IReadOnlyList<int> kept)
    {
        if (c.Fields.List("layer_types") is { } types && types.Count == c.LayerCount)
        {
            yield return ("layer_types", new JsonArray([.. kept.Select(i => types[i]?.DeepClone())]));
        }
    }

    internal static Architecture Named(string modelType, string origin)
    {
        EspalierException.Require(Families.TryGetValue(modelType, out Architecture? family), $"{origin}: the model type '{modelType}' is not supported; supported are {string.Join(", ", Known)}.");
        return family;
    }

    /// <summary>Reads and checks this family's fields; absent ones default as in the family's original code.</summary>
    /// <exception cref="EspalierException">When a field is missing, out of range or contradicts another.</exception>
    internal abstract ModelConfig ReadConfig(ConfigFields fields);

    /// <summary>The width of a head where the hidden width is shared out among the heads.</summary>
    /// <exception cref="EspalierException">When it cannot be shared out evenly.</exception>
    private protected static int EvenHeadDim(ConfigFields fields, int hidden, int heads)
    {
        // Espalier's own key in families that share the width out: there after a structural cut, where the quotient is another.
        if (fields.Optional("head_dim") is { } given)
        {
            return given;
        }

        EspalierException.Require(hidden % heads == 0, $"{fields.Origin}: a hidden width of {hidden} cannot be shared out among {heads} attention heads; it must be a multiple of their number.");
        return hidden / heads;
    }

    private string FirstTensor(ModelConfig c)
    {
        using Embedding embedding = CreateEmbedding(c, Placement.Meta);
        return embedding.Tensors[0].Name;
    }
}
