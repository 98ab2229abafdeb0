using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>What turns token ids into the first hidden states.</summary>
public abstract class Embedding : ModelPart
{
    /// <summary>Makes an empty embedding.</summary>
    protected Embedding(string name)
        : base(name)
    {
    }

    /// <summary>The token table [vocabulary, width]; a tied head reads it too.</summary>
    public abstract LookupTable Tokens { get; }

    /// <summary>ids to hidden states.</summary>
    /// <param name="ids">Token ids [batch, tokens], int64.</param>
    /// <param name="position">The position of the first token.</param>
    /// <returns>[batch, tokens, hidden].</returns>
    /// <exception cref="EspalierException">When an id lies outside the vocabulary, or the context is longer than the model's.</exception>
    public abstract Tensor Forward(Tensor ids, long position);
}

/// <summary>The embedding of every family here: a token table, in some with learned positions (GPT-2, OPT) and a projection to the hidden width (OPT).</summary>
internal sealed class TokenEmbedding : Embedding
{
    private readonly LookupTable? positions;
    private readonly long positionOffset;
    private readonly Linear? projection;
    private readonly int maxPositions;
    private readonly List<SlicePattern> channels = [];

    /// <param name="config">The model's shape.</param>
    /// <param name="tokensName">The checkpoint name of the token table, without ".weight".</param>
    /// <param name="placement">Where the parameters live.</param>
    /// <param name="tokenWidth">The table's width where it is not the hidden width; a projection follows then.</param>
    /// <param name="projectionName">The checkpoint name of that projection.</param>
    /// <param name="positionsName">The checkpoint name of the position table; null for none.</param>
    /// <param name="positionOffset">The row of position 0.</param>
    public TokenEmbedding(ModelConfig config, string tokensName, Placement placement, int? tokenWidth = null, string? projectionName = null, string? positionsName = null, long positionOffset = 0)
        : base("embedding")
    {
        (maxPositions, this.positionOffset) = (config.MaxPositions, positionOffset);
        int width = tokenWidth ?? config.HiddenSize;
        Tokens = Add(tokensName, new LookupTable(config.VocabSize, width, placement));
        if (width != config.HiddenSize)
        {
            projection = Add(projectionName!, new Linear("projection", width, config.HiddenSize, bias: false, placement));
            channels.AddRange(SlicePattern.Outputs(projectionName!, projection, 1));
        }
        else
        {
            channels.Add(new SlicePattern($"{tokensName}.weight", Axis: 1));
        }

        if (positionsName is not null)
        {
            positions = Add(positionsName, new LookupTable(config.MaxPositions + positionOffset, config.HiddenSize, placement));
            channels.Add(new SlicePattern($"{positionsName}.weight", Axis: 1));
        }
    }

    public override LookupTable Tokens { get; }

    public override IReadOnlyList<SlicePattern> HiddenChannelSlices => channels;

    public override Tensor Forward(Tensor ids_BT, long position)
    {
        long end = position + ids_BT.shape[1];
        EspalierException.Require(end <= maxPositions, $"A context of {end} tokens is longer than the {maxPositions} that this model was made for; use shorter texts or a shorter sequence length.");
        using var scope = NewDisposeScope();
        Tensor x_BTH = Tokens.call(ids_BT);
        x_BTH = projection?.call(x_BTH) ?? x_BTH;
        x_BTH = positions is null ? x_BTH : x_BTH + positions.Slice(position + positionOffset, ids_BT.shape[1]);
        return x_BTH.MoveToOuterDisposeScope();
    }
}
