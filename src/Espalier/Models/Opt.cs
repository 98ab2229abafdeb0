using Espalier.Models.Decoding;
using Espalier.Runtime;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Espalier.Models;

/// <summary>
/// OPT (Zhang et al. 2022): learned positions that begin at row 2, layer norms before each part (or after it, in the
/// 350M model), a plain feed-forward, in some models a token width of its own with projections in and out.
/// </summary>
/// <remarks>Letters in names: B batch, T tokens, H hidden, N heads, D head width, F neurons.</remarks>
internal sealed class Opt : Architecture
{
    /// <summary>The ε of OPT's norms, which its configuration does not carry.</summary>
    private const double Epsilon = 1e-5;

    /// <summary>Rows 0 and 1 of the position table belong to padding.</summary>
    internal const long PositionOffset = 2;

    public override string ModelType => "opt";

    public override string ActivationField => "activation_function";

    public override IReadOnlyList<string> Prefixes => ["model.decoder.", "decoder.", ""];

    internal override ModelConfig ReadConfig(ConfigFields fields)
    {
        int hidden = fields.Positive("hidden_size");
        int heads = fields.Positive("num_attention_heads");
        foreach (string flag in (string[])["enable_bias", "do_layer_norm_before", "layer_norm_elementwise_affine", "_remove_final_layer_norm"])
        {
            fields.Flag(flag, true);
        }

        fields.Optional("word_embed_proj_dim");
        return new ModelConfig
        {
            ModelType = ModelType,
            HiddenSize = hidden,
            IntermediateSize = fields.Positive("ffn_dim"),
            LayerCount = fields.Positive("num_hidden_layers"),
            HeadCount = heads,
            KeyValueHeadCount = heads,
            HeadDim = EvenHeadDim(fields, hidden, heads),
            VocabSize = fields.Positive("vocab_size"),
            MaxPositions = fields.Positive("max_position_embeddings"),
            NormEpsilon = Epsilon,
            Activation = fields.Activation(ActivationField, "relu"),
            TieWordEmbeddings = fields.Flag("tie_word_embeddings", true),
            InitializerRange = fields.Number("init_std", 0.02),
            BosTokenId = fields.Optional("bos_token_id", least: 0),
            EosTokenIds = fields.WholeOrList("eos_token_id"),
            TensorPrefix = Prefixes[0],
            Fields = fields,
        };
    }

    internal override SizeFields Sizes { get; } = new(["hidden_size"], ["num_hidden_layers"], ["num_attention_heads"], ["ffn_dim"]);

    internal override bool ReadsHeadWidth => false;

    internal override string? ReaderBiasField(bool attention) => "enable_bias";

    public override Embedding CreateEmbedding(ModelConfig c, Placement? placement = null) =>
        new TokenEmbedding(c, $"{c.TensorPrefix}embed_tokens", placement ?? Placement.Default, TokenWidth(c), $"{c.TensorPrefix}project_in", $"{c.TensorPrefix}embed_positions", PositionOffset);

    public override DecoderBlock CreateBlock(ModelConfig c, int index, Placement? placement = null) => new OptBlock(c, index, placement ?? Placement.Default);

    public override OutputHead CreateHead(ModelConfig c, Embedding embedding, Placement? placement = null)
    {
        placement ??= Placement.Default;
        (string, nn.Module<Tensor, Tensor>)? norm = HasFinalNorm(c) ? ($"{c.TensorPrefix}final_layer_norm", new LayerNorm(c.HiddenSize, Epsilon, Affine(c), placement)) : null;
        return new TokenHead(c, embedding, norm, "lm_head", placement, TokenWidth(c), $"{c.TensorPrefix}project_out");
    }

    public override IReadOnlyList<string> Ignorable(ModelConfig c) => ["*decoder.version", .. c.TieWordEmbeddings ? ["lm_head.weight"] : Array.Empty<string>()];

    internal static bool NormFirst(ModelConfig c) => c.Fields.Flag("do_layer_norm_before", true);

    internal static bool HasFinalNorm(ModelConfig c) => NormFirst(c) && !c.Fields.Flag("_remove_final_layer_norm", false);

    internal static bool Affine(ModelConfig c) => c.Fields.Flag("layer_norm_elementwise_affine", true);

    private static int TokenWidth(ModelConfig c) => c.Fields.Optional("word_embed_proj_dim") ?? c.HiddenSize;
}

/// <summary>Pre-norm: x + part(norm(x)); post-norm: norm(x + part(x)); the parts are attention, then fc2(act(fc1(x))).</summary>
internal sealed class OptBlock : DecoderBlock
{
    private readonly string prefix;
    private readonly BlockShape shape;
    private readonly int headDim;
    private readonly bool normFirst;
    private readonly LayerNorm attentionNorm, finalNorm;
    private readonly Linear query, key, value, output, fc1, fc2;

    public OptBlock(ModelConfig c, int index, Placement p)
        : base(nameof(OptBlock), index)
    {
        (shape, headDim, normFirst, Activation) = (c.ShapeOf(index), c.HeadDim, Opt.NormFirst(c), Activations.Of(c));
        EspalierException.Require(shape.Heads == shape.KeyValueHeads, $"{c.Fields.Origin}: OPT has no grouped queries; block {index} needs as many key-value heads as heads.");
        prefix = $"{c.TensorPrefix}layers.{index}";
        bool bias = c.Fields.Flag("enable_bias", true);
        (long hidden, long width) = (c.HiddenSize, shape.Heads * (long)headDim);

        attentionNorm = Add($"{prefix}.self_attn_layer_norm", new LayerNorm(hidden, c.NormEpsilon, Opt.Affine(c), p));
        query = Add($"{prefix}.self_attn.q_proj", new Linear("q_proj", hidden, width, bias, p));
        key = Add($"{prefix}.self_attn.k_proj", new Linear("k_proj", hidden, width, bias, p));
        value = Add($"{prefix}.self_attn.v_proj", new Linear("v_proj", hidden, width, bias, p));
        output = Add($"{prefix}.self_attn.out_proj", new Linear("out_proj", width, hidden, bias, p));
        finalNorm = Add($"{prefix}.final_layer_norm", new LayerNorm(hidden, c.NormEpsilon, Opt.Affine(c), p));
        fc1 = Add($"{prefix}.fc1", new Linear("fc1", hidden, shape.Neurons, bias, p));
        fc2 = Add($"{prefix}.fc2", new Linear("fc2", shape.Neurons, hidden, bias, p));
    }

    public override Tensor Forward(Tensor hidden_BTH, long position = 0, KeyValueCache? cache = null)
    {
        using var scope = NewDisposeScope();
        Tensor x_BTH = hidden_BTH;
        if (normFirst)
        {
            x_BTH = x_BTH + Attend(attentionNorm.call(x_BTH), cache);
            x_BTH = x_BTH + FeedForward(finalNorm.call(x_BTH));
        }
        else
        {
            x_BTH = attentionNorm.call(x_BTH + Attend(x_BTH, cache));
            x_BTH = finalNorm.call(x_BTH + FeedForward(x_BTH));
        }

        return x_BTH.MoveToOuterDisposeScope();
    }

    private Tensor Attend(Tensor x_BTH, KeyValueCache? cache)
    {
        Tensor q_BNTD = Attention.SplitHeads(query.call(x_BTH), shape.Heads);
        Tensor k_BNTD = Attention.SplitHeads(key.call(x_BTH), shape.Heads);
        Tensor v_BNTD = Attention.SplitHeads(value.call(x_BTH), shape.Heads);
        return output.call(Attention.Attend(q_BNTD, k_BNTD, v_BNTD, Index, cache));
    }

    private Tensor FeedForward(Tensor x_BTH) => fc2.call(Activation(fc1.call(x_BTH))); // [B,T,H] -> [B,T,F] -> [B,T,H]

    internal override void Step(StepRoom room, long position, KeyValueCache cache)
    {
        Span<float> x = room.Hidden, normed = room.Take(StepVector.Normed, x.Length), branch = room.Take(StepVector.Branch, x.Length);
        Span<float> input = normFirst ? normed : x;
        if (normFirst)
        {
            attentionNorm.Step(x, normed);
        }

        int width = shape.Heads * headDim;
        Span<float> q = room.Take(StepVector.Query, width), k = room.Take(StepVector.Key, width), v = room.Take(StepVector.Value, width), attended = room.Take(StepVector.Attended, width);
        query.Step(input, q);
        key.Step(input, k);
        value.Step(input, v);
        StepMath.Attend(q, cache.Append(Index, k, v, shape.Heads), null, attended);
        output.Step(attended, branch);
        TensorPrimitives.Add(x, branch, x);
        if (normFirst)
        {
            finalNorm.Step(x, normed);
        }
        else
        {
            attentionNorm.Step(x, x);
        }

        FeedForward(room, input, fc1, fc2, branch);
        TensorPrimitives.Add(x, branch, x);
        if (!normFirst)
        {
            finalNorm.Step(x, x);
        }
    }

    public override IReadOnlyList<BlockLinear> Linears =>
    [
        new($"{prefix}.self_attn.q_proj.weight", query, 0),
        new($"{prefix}.self_attn.k_proj.weight", key, 0),
        new($"{prefix}.self_attn.v_proj.weight", value, 0),
        new($"{prefix}.self_attn.out_proj.weight", output, 1),
        new($"{prefix}.fc1.weight", fc1, 2),
        new($"{prefix}.fc2.weight", fc2, 3),
    ];

    public override IReadOnlyList<(string Name, nn.Module<Tensor, Tensor> Norm)> StreamNorms => [($"{prefix}.self_attn_layer_norm", attentionNorm), ($"{prefix}.final_layer_norm", finalNorm)];

    public override IReadOnlyList<CoupledGroup> Groups =>
    [
        new(CoupledKind.AttentionHead, $"{prefix}.self_attn", shape.Heads,
        [
            .. SlicePattern.Outputs($"{prefix}.self_attn.q_proj", query, headDim),
            .. SlicePattern.Outputs($"{prefix}.self_attn.k_proj", key, headDim),
            .. SlicePattern.Outputs($"{prefix}.self_attn.v_proj", value, headDim),
            SlicePattern.Inputs($"{prefix}.self_attn.out_proj", output, headDim),
        ]),
        new(CoupledKind.Neuron, prefix, shape.Neurons,
        [
            .. SlicePattern.Outputs($"{prefix}.fc1", fc1, 1),
            SlicePattern.Inputs($"{prefix}.fc2", fc2, 1),
        ]),
    ];

    public override IReadOnlyList<SlicePattern> HiddenChannelSlices =>
    [
        .. SlicePattern.Whole($"{prefix}.self_attn_layer_norm", attentionNorm),
        SlicePattern.Inputs($"{prefix}.self_attn.q_proj", query, 1),
        SlicePattern.Inputs($"{prefix}.self_attn.k_proj", key, 1),
        SlicePattern.Inputs($"{prefix}.self_attn.v_proj", value, 1),
        .. SlicePattern.Outputs($"{prefix}.self_attn.out_proj", output, 1),
        .. SlicePattern.Whole($"{prefix}.final_layer_norm", finalNorm),
        SlicePattern.Inputs($"{prefix}.fc1", fc1, 1),
        .. SlicePattern.Outputs($"{prefix}.fc2", fc2, 1),
    ];
}
