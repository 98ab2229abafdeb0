using Espalier.Models.Decoding;
using Espalier.Runtime;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Espalier.Models;

/// <summary>
/// GPT-NeoX (Black et al. 2022; Pythia): layer norms, rotary positions on the first part of each head, one map whose
/// rows hold query, key and value head by head, attention and feed-forward side by side.
/// </summary>
/// <remarks>Letters in names: B batch, T tokens, H hidden, N heads, D head width, F neurons.</remarks>
internal sealed class GptNeoX : Architecture
{
    public override string ModelType => "gpt_neox";

    public override IReadOnlyList<string> Prefixes => ["gpt_neox.", ""];

    internal override ModelConfig ReadConfig(ConfigFields fields)
    {
        int hidden = fields.Positive("hidden_size");
        int heads = fields.Positive("num_attention_heads");
        int headDim = EvenHeadDim(fields, hidden, heads);
        int maxPositions = fields.Positive("max_position_embeddings");
        int turned = RotaryDimensions(fields, headDim);
        EspalierException.Require(turned >= 2 && turned % 2 == 0 && turned <= headDim,
            $"{fields.Origin}: rotary_pct turns {turned} of a head's {headDim} dimensions; it must be an even number from 2 to {headDim}.");
        fields.Flag("use_parallel_residual", true);
        fields.Flag("attention_bias", true);
        return new ModelConfig
        {
            ModelType = ModelType,
            HiddenSize = hidden,
            IntermediateSize = fields.Positive("intermediate_size"),
            LayerCount = fields.Positive("num_hidden_layers"),
            HeadCount = heads,
            KeyValueHeadCount = heads,
            HeadDim = headDim,
            VocabSize = fields.Positive("vocab_size"),
            MaxPositions = maxPositions,
            NormEpsilon = fields.Number("layer_norm_eps", 1e-5),
            Activation = fields.Activation("hidden_act", "gelu"),
            TieWordEmbeddings = fields.Flag("tie_word_embeddings", false),
            Rope = RopeSettings.Read(fields, maxPositions, fields.Has("rotary_emb_base") ? "rotary_emb_base" : "rope_theta"),
            InitializerRange = fields.Number("initializer_range", 0.02),
            BosTokenId = fields.Optional("bos_token_id", least: 0),
            EosTokenIds = fields.WholeOrList("eos_token_id"),
            TensorPrefix = Prefixes[0],
            Fields = fields,
        };
    }

    internal override SizeFields Sizes { get; } = new(["hidden_size"], ["num_hidden_layers"], ["num_attention_heads"], ["intermediate_size"]);

    internal override bool ReadsHeadWidth => false;

    internal override string? ReaderBiasField(bool attention) => attention ? "attention_bias" : "";

    public override Embedding CreateEmbedding(ModelConfig c, Placement? placement = null) =>
        new TokenEmbedding(c, $"{c.TensorPrefix}embed_in", placement ?? Placement.Default);

    public override DecoderBlock CreateBlock(ModelConfig c, int index, Placement? placement = null) => new GptNeoXBlock(c, index, placement ?? Placement.Default);

    public override OutputHead CreateHead(ModelConfig c, Embedding embedding, Placement? placement = null)
    {
        placement ??= Placement.Default;
        return new TokenHead(c, embedding, ($"{c.TensorPrefix}final_layer_norm", new LayerNorm(c.HiddenSize, c.NormEpsilon, affine: true, placement)), "embed_out", placement);
    }

    // attention.bias is the causal mask, not a bias: the maps' own are query_key_value.bias and dense.bias.
    public override IReadOnlyList<string> Ignorable(ModelConfig c) =>
        ["*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq", .. c.TieWordEmbeddings ? ["embed_out.weight"] : Array.Empty<string>()];

    /// <summary>How many dimensions of a head are turned.</summary>
    internal static int RotaryDimensions(ConfigFields fields, int headDim)
    {
        double share = fields.Number("rotary_pct", 0.25);
        share = fields.Section("rope_parameters")?.Number("partial_rotary_factor", share) ?? share;
        return (int)(headDim * share);
    }
}

/// <summary>Parallel: x + attention(norm₁(x)) + mlp(norm₂(x)); else x + attention(norm₁(x)), then x + mlp(norm₂(x)).</summary>
internal sealed class GptNeoXBlock : DecoderBlock
{
    private readonly string prefix;
    private readonly BlockShape shape;
    private readonly int headDim;
    private readonly bool parallel;
    private readonly Rotary rotary;
    private readonly LayerNorm inputNorm, postAttentionNorm;
    private readonly Linear queryKeyValue, output, up, down;

    public GptNeoXBlock(ModelConfig c, int index, Placement p)
        : base(nameof(GptNeoXBlock), index)
    {
        (shape, headDim, Activation) = (c.ShapeOf(index), c.HeadDim, Activations.Of(c));
        EspalierException.Require(shape.Heads == shape.KeyValueHeads, $"{c.Fields.Origin}: GPT-NeoX has no grouped queries; block {index} needs as many key-value heads as heads.");
        prefix = $"{c.TensorPrefix}layers.{index}";
        parallel = c.Fields.Flag("use_parallel_residual", true);
        rotary = new Rotary(c.Rope!, GptNeoX.RotaryDimensions(c.Fields, headDim));
        bool attentionBias = c.Fields.Flag("attention_bias", true);
        (long hidden, long width) = (c.HiddenSize, shape.Heads * (long)headDim);

        inputNorm = Add($"{prefix}.input_layernorm", new LayerNorm(hidden, c.NormEpsilon, affine: true, p));
        postAttentionNorm = Add($"{prefix}.post_attention_layernorm", new LayerNorm(hidden, c.NormEpsilon, affine: true, p));
        queryKeyValue = Add($"{prefix}.attention.query_key_value", new Linear("query_key_value", hidden, 3 * width, attentionBias, p));
        output = Add($"{prefix}.attention.dense", new Linear("dense", width, hidden, attentionBias, p));
        up = Add($"{prefix}.mlp.dense_h_to_4h", new Linear("dense_h_to_4h", hidden, shape.Neurons, bias: true, p));
        down = Add($"{prefix}.mlp.dense_4h_to_h", new Linear("dense_4h_to_h", shape.Neurons, hidden, bias: true, p));
    }

    public override Tensor Forward(Tensor hidden_BTH, long position = 0, KeyValueCache? cache = null)
    {
        using var scope = NewDisposeScope();
        Tensor x_BTH = hidden_BTH + Attend(inputNorm.call(hidden_BTH), position, cache);
        x_BTH = x_BTH + FeedForward(postAttentionNorm.call(parallel ? hidden_BTH : x_BTH));
        return x_BTH.MoveToOuterDisposeScope();
    }

    private Tensor Attend(Tensor x_BTH, long position, KeyValueCache? cache)
    {
        // The rows of the map are head 0's query, key, value, then head 1's, and so on.
        Tensor[] qkv_BNTD = Attention.SplitHeads(queryKeyValue.call(x_BTH), shape.Heads).chunk(3, -1);
        Tensor q_BNTD = rotary.Turn(qkv_BNTD[0], position);
        Tensor k_BNTD = rotary.Turn(qkv_BNTD[1], position);
        return output.call(Attention.Attend(q_BNTD, k_BNTD, qkv_BNTD[2], Index, cache));
    }

    private Tensor FeedForward(Tensor x_BTH) => down.call(Activation(up.call(x_BTH))); // [B,T,H] -> [B,T,F] -> [B,T,H]

    internal override void Step(StepRoom room, long position, KeyValueCache cache)
    {
        Span<float> x = room.Hidden, normed = room.Take(StepVector.Normed, x.Length), branch = room.Take(StepVector.Branch, x.Length);
        int width = shape.Heads * headDim;
        Span<float> qkv = room.Take(StepVector.Up, 3 * width), attended = room.Take(StepVector.Attended, width);
        Span<float> q = room.Take(StepVector.Query, width), k = room.Take(StepVector.Key, width), v = room.Take(StepVector.Value, width);
        inputNorm.Step(x, normed);
        queryKeyValue.Step(normed, qkv);
        for (int h = 0; h < shape.Heads; h++)
        {
            ReadOnlySpan<float> own = qkv.Slice(3 * h * headDim, 3 * headDim);
            own[..headDim].CopyTo(q[(h * headDim)..]);
            own.Slice(headDim, headDim).CopyTo(k[(h * headDim)..]);
            own[(2 * headDim)..].CopyTo(v[(h * headDim)..]);
        }

        rotary.Turn(q, headDim, position);
        rotary.Turn(k, headDim, position);
        StepMath.Attend(q, cache.Append(Index, k, v, shape.Heads), null, attended);
        if (parallel)
        {
            postAttentionNorm.Step(x, normed);
        }

        output.Step(attended, branch);
        TensorPrimitives.Add(x, branch, x);
        if (!parallel)
        {
            postAttentionNorm.Step(x, normed);
        }

        FeedForward(room, normed, up, down, branch);
        TensorPrimitives.Add(x, branch, x);
    }

    public override IReadOnlyList<BlockLinear> Linears =>
    [
        new($"{prefix}.attention.query_key_value.weight", queryKeyValue, 0),
        new($"{prefix}.attention.dense.weight", output, 1),
        new($"{prefix}.mlp.dense_h_to_4h.weight", up, 2),
        new($"{prefix}.mlp.dense_4h_to_h.weight", down, 3),
    ];

    public override IReadOnlyList<(string Name, nn.Module<Tensor, Tensor> Norm)> StreamNorms => [($"{prefix}.input_layernorm", inputNorm), ($"{prefix}.post_attention_layernorm", postAttentionNorm)];

    public override IReadOnlyList<CoupledGroup> Groups =>
    [
        new(CoupledKind.AttentionHead, $"{prefix}.attention", shape.Heads,
        [
            .. SlicePattern.Outputs($"{prefix}.attention.query_key_value", queryKeyValue, 3L * headDim),
            SlicePattern.Inputs($"{prefix}.attention.dense", output, headDim),
        ]),
        new(CoupledKind.Neuron, $"{prefix}.mlp", shape.Neurons,
        [
            .. SlicePattern.Outputs($"{prefix}.mlp.dense_h_to_4h", up, 1),
            SlicePattern.Inputs($"{prefix}.mlp.dense_4h_to_h", down, 1),
        ]),
    ];

    public override IReadOnlyList<SlicePattern> HiddenChannelSlices =>
    [
        .. SlicePattern.Whole($"{prefix}.input_layernorm", inputNorm),
        .. SlicePattern.Whole($"{prefix}.post_attention_layernorm", postAttentionNorm),
        SlicePattern.Inputs($"{prefix}.attention.query_key_value", queryKeyValue, 1),
        .. SlicePattern.Outputs($"{prefix}.attention.dense", output, 1),
        SlicePattern.Inputs($"{prefix}.mlp.dense_h_to_4h", up, 1),
        .. SlicePattern.Outputs($"{prefix}.mlp.dense_4h_to_h", down, 1),
    ];

    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (disposing)
        {
            rotary.Dispose();
        }
    }
}
