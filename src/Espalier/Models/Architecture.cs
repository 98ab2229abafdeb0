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

    /// <summary>The field of config.json that names the activation function.</summary>
    public virtual string ActivationField => "hidden_act";

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
        EspalierException.Require(hidden % heads == 0, $"{fields.Origin}: a hidden width of {hidden} cannot be shared out among {heads} attention heads; it must be a multiple of their number.");
        return hidden / heads;
    }

    private string FirstTensor(ModelConfig c)
    {
        using Embedding embedding = CreateEmbedding(c, Placement.Meta);
        return embedding.Tensors[0].Name;
    }
}
