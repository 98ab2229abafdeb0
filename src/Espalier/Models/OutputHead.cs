using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>What turns the last hidden states into logits: the final norm, in some families a projection, and the language-model head.</summary>
public abstract class OutputHead : ModelPart
{
    /// <summary>Makes an empty head.</summary>
    protected OutputHead(string name)
        : base(name)
    {
    }

    /// <summary>The language-model head; null where it is tied to the token table, which belongs to the embedding.</summary>
    public abstract Linear? Projection { get; }

    /// <summary>Hidden states to logits.</summary>
    /// <param name="hidden">[batch, tokens, hidden].</param>
    /// <returns>[batch, tokens, vocabulary].</returns>
    public abstract Tensor Forward(Tensor hidden);
}

/// <summary>The head of every family here.</summary>
internal sealed class TokenHead : OutputHead
{
    private readonly nn.Module<Tensor, Tensor>? norm;
    private readonly Linear? projectOut;
    private readonly Embedding? tied;
    private readonly List<SlicePattern> channels = [];

    /// <param name="config">The model's shape; says whether the head is tied.</param>
    /// <param name="embedding">Whose token table a tied head reads.</param>
    /// <param name="norm">The final norm with its checkpoint name; null for none.</param>
    /// <param name="headName">The checkpoint name of an untied head, without ".weight".</param>
    /// <param name="placement">Where the parameters live.</param>
    /// <param name="tokenWidth">The head's width where it is not the hidden width; a projection to it comes first.</param>
    /// <param name="projectionName">The checkpoint name of that projection.</param>
    public TokenHead(ModelConfig config, Embedding embedding, (string Name, nn.Module<Tensor, Tensor> Module)? norm, string headName, Placement placement, int? tokenWidth = null, string? projectionName = null)
        : base("head")
    {
        int width = tokenWidth ?? config.HiddenSize;
        if (norm is { } n)
        {
            this.norm = Add(n.Name, n.Module);
            channels.AddRange(SlicePattern.Whole(n.Name, n.Module));
        }

        if (width != config.HiddenSize)
        {
            projectOut = Add(projectionName!, new Linear("projection", config.HiddenSize, width, bias: false, placement));
            channels.Add(SlicePattern.Inputs(projectionName!, projectOut, 1));
        }

        if (config.TieWordEmbeddings)
        {
            tied = embedding;
        }
        else
        {
            Projection = Add(headName, new Linear("head", width, config.VocabSize, bias: false, placement));
            if (projectOut is null)
            {
                channels.Add(SlicePattern.Inputs(headName, Projection, 1));
            }
        }
    }

    public override Linear? Projection { get; }

    public override IReadOnlyList<SlicePattern> HiddenChannelSlices => channels;

    public override Tensor Forward(Tensor hidden_BTH)
    {
        using var scope = NewDisposeScope();
        Tensor x = norm?.call(hidden_BTH) ?? hidden_BTH;
        x = projectOut?.call(x) ?? x;
        Tensor logits_BTV = Projection is not null ? Projection.call(x) : tied!.Tokens.Match(x);
        return logits_BTV.MoveToOuterDisposeScope();
    }
}
