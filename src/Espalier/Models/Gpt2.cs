using System.Text.Json.Nodes;
using Espalier.Models.Decoding;
using Espalier.Runtime;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Espalier.Models;

/// <summary>
/// GPT-2 (Radford et al. 2019): learned positions, pre-norm blocks, one map for queries, keys and values side by side.
/// Its linear maps are stored as [in, out] (Conv1D).
/// </summary>
/// <remarks>Letters in names: B batch, T tokens, H hidden, N heads, D head width, F neurons.</remarks>
internal sealed class Gpt2 : Architecture
{
    public override string ModelType => "gpt2";

    public override string ActivationField => "activation_function";

    public override IReadOnlyList<string> Prefixes => ["transformer.", ""];

    internal override ModelConfig ReadConfig(ConfigFields fields)
    {
        int hidden = fields.Positive("n_embd", "hidden_size");
        int heads = fields.Positive("n_head", "num_attention_heads");
        EspalierException.Require(!fields.Flag("add_cross_attention", false), $"{fields.Origin}: GPT-2 with cross-attention is not supported; only decoders that stand alone are.");
        fields.Flag("scale_attn_weights", true);
        fields.Flag("scale_attn_by_inverse_layer_idx", false);
        return new ModelConfig
        {
            ModelType = ModelType,
            HiddenSize = hidden,
            IntermediateSize = fields.PositiveOr(4 * hidden, "n_inner"),
            LayerCount = fields.Positive("n_layer", "num_hidden_layers"),
            HeadCount = heads,
            KeyValueHeadCount = heads,
            HeadDim = EvenHeadDim(fields, hidden, heads),
            VocabSize = fields.Positive("vocab_size"),
            MaxPositions = fields.Positive("n_positions", "max_position_embeddings"),
            NormEpsilon = fields.Number("layer_norm_epsilon", 1e-5),
            Activation = fields.Activation(ActivationField, "gelu_new"),
            TieWordEmbeddings = fields.Flag("tie_word_embeddings", true),
            InitializerRange = fields.Number("initializer_range", 0.02),
            BosTokenId = fields.Optional("bos_token_id", least: 0),
            EosTokenIds = fields.WholeOrList("eos_token_id"),
            TensorPrefix = Prefixes[0],
            Fields = fields,
        };
    }

    internal override SizeFields Sizes { get; } = new(["n_embd", "hidden_size"], ["n_layer", "num_hidden_layers"], ["n_head", "num_attention_heads"], ["n_inner"]);

    internal override bool ReadsHeadWidth => false;

    internal override string? ReaderBiasField(bool attention) => "";

    internal override IEnumerable<(string Name, JsonNode? Value)> FieldsOfLayers(ModelConfig c, IReadOnlyList<int> kept)
    {
        EspalierException.Require(!c.Fields.Flag("scale_attn_by_inverse_layer_idx", false), $"{c.Fields.Origin}: attention is scaled by the layer's number here, so a layer that moves up would compute something else; cut heads or neurons instead of layers.");
        return base.FieldsOfLayers(c, kept);
    }

    public override Embedding CreateEmbedding(ModelConfig c, Placement? placement = null) =>
        new TokenEmbedding(c, $"{c.TensorPrefix}wte", placement ?? Placement.Default, positionsName: $"{c.TensorPrefix}wpe");

    public override DecoderBlock CreateBlock(ModelConfig c, int index, Placement? placement = null) => new Gpt2Block(c, index, placement ?? Placement.Default);

    public override OutputHead CreateHead(ModelConfig c, Embedding embedding, Placement? placement = null)
    {
        placement ??= Placement.Default;
        return new TokenHead(c, embedding, ($"{c.TensorPrefix}ln_f", new LayerNorm(c.HiddenSize, c.NormEpsilon, affine: true, placement)), "lm_head", placement);
    }

    // attn.bias is the causal mask, not a bias: the maps' own are attn.c_attn.bias and attn.c_proj.bias.
    public override IReadOnlyList<string> Ignorable(ModelConfig c) => ["*.attn.bias", "*.attn.masked_bias", .. c.TieWordEmbeddings ? ["lm_head.weight"] : Array.Empty<string>()];
}

/// <summary>x + attention(norm(x)), then x + c_proj(act(c_fc(norm(x)))).</summary>
internal sealed class Gpt2Block : DecoderBlock
{
    private readonly string prefix;
    private readonly BlockShape shape;
    private readonly int headDim;
    private readonly double queryScale;
    private readonly LayerNorm norm1, norm2;
    private readonly Linear queryKeyValue, output, fc, project;

    public Gpt2Block(ModelConfig c, int index, Placement p)
        : base(nameof(Gpt2Block), index)
    {
        (shape, headDim, Activation) = (c.ShapeOf(index), c.HeadDim, Activations.Of(c));
        EspalierException.Require(shape.Heads == shape.KeyValueHeads, $"{c.Fields.Origin}: GPT-2 has no grouped queries; block {index} needs as many key-value heads as heads.");
        prefix = $"{c.TensorPrefix}h.{index}";
        // What stands beside the 1/√D that attention applies anyway.
        queryScale = (c.Fields.Flag("scale_attn_weights", true) ? 1 : Math.Sqrt(headDim)) / (c.Fields.Flag("scale_attn_by_inverse_layer_idx", false) ? index + 1 : 1);
        (long hidden, long width) = (c.HiddenSize, shape.Heads * (long)headDim);

        norm1 = Add($"{prefix}.ln_1", new LayerNorm(hidden, c.NormEpsilon, affine: true, p));
        queryKeyValue = Add($"{prefix}.attn.c_attn", new Linear("c_attn", hidden, 3 * width, bias: true, p, WeightLayout.InOut));
        output = Add($"{prefix}.attn.c_proj", new Linear("c_proj", width, hidden, bias: true, p, WeightLayout.InOut));
        norm2 = Add($"{prefix}.ln_2", new LayerNorm(hidden, c.NormEpsilon, affine: true, p));
        fc = Add($"{prefix}.mlp.c_fc", new Linear("c_fc", hidden, shape.Neurons, bias: true, p, WeightLayout.InOut));
        project = Add($"{prefix}.mlp.c_proj", new Linear("c_proj", shape.Neurons, hidden, bias: true, p, WeightLayout.InOut));
    }

    public override Tensor Forward(Tensor hidden_BTH, long position = 0, KeyValueCache? cache = null)
    {
        using var scope = NewDisposeScope();
        Tensor x_BTH = hidden_BTH + Attend(norm1.call(hidden_BTH), cache);
        x_BTH = x_BTH + FeedForward(norm2.call(x_BTH));
        return x_BTH.MoveToOuterDisposeScope();
    }

    private Tensor Attend(Tensor x_BTH, KeyValueCache? cache)
    {
        Tensor[] qkv_BTC = queryKeyValue.call(x_BTH).chunk(3, -1); // all queries, all keys, all values
        Tensor q_BNTD = Attention.SplitHeads(qkv_BTC[0], shape.Heads);
        Tensor k_BNTD = Attention.SplitHeads(qkv_BTC[1], shape.Heads);
        Tensor v_BNTD = Attention.SplitHeads(qkv_BTC[2], shape.Heads);
        if (queryScale != 1)
        {
            q_BNTD = q_BNTD * queryScale;
        }

        return output.call(Attention.Attend(q_BNTD, k_BNTD, v_BNTD, Index, cache));
    }

    private Tensor FeedForward(Tensor x_BTH) => project.call(Activation(fc.call(x_BTH))); // [B,T,H] -> [B,T,F] -> [B,T,H]

    internal override void Step(StepRoom room, long position, KeyValueCache cache)
    {
        Span<float> x = room.Hidden, normed = room.Take(StepVector.Normed, x.Length), branch = room.Take(StepVector.Branch, x.Length);
        int width = shape.Heads * headDim;
        Span<float> qkv = room.Take(StepVector.Query, 3 * width), attended = room.Take(StepVector.Attended, width);
        norm1.Step(x, normed);
        queryKeyValue.Step(normed, qkv);
        if (queryScale != 1)
        {
            TensorPrimitives.Multiply(qkv[..width], (float)queryScale, qkv[..width]);
        }

        StepMath.Attend(qkv[..width], cache.Append(Index, qkv.Slice(width, width), qkv[(2 * width)..], shape.Heads), null, attended);
        output.Step(attended, branch);
        TensorPrimitives.Add(x, branch, x);
        norm2.Step(x, normed);
        FeedForward(room, normed, fc, project, branch);
        TensorPrimitives.Add(x, branch, x);
    }

    public override IReadOnlyList<BlockLinear> Linears =>
    [
        new($"{prefix}.attn.c_attn.weight", queryKeyValue, 0),
        new($"{prefix}.attn.c_proj.weight", output, 1),
        new($"{prefix}.mlp.c_fc.weight", fc, 2),
        new($"{prefix}.mlp.c_proj.weight", project, 3),
    ];

    public override IReadOnlyList<(string Name, nn.Module<Tensor, Tensor> Norm)> StreamNorms => [($"{prefix}.ln_1", norm1), ($"{prefix}.ln_2", norm2)];

    public override IReadOnlyList<CoupledGroup> Groups
    {
        get
        {
            long width = shape.Heads * (long)headDim;
            return
            [
                new(CoupledKind.AttentionHead, $"{prefix}.attn", shape.Heads,
                [
                    .. SlicePattern.Outputs($"{prefix}.attn.c_attn", queryKeyValue, headDim),
                    .. SlicePattern.Outputs($"{prefix}.attn.c_attn", queryKeyValue, headDim, offset: width),
                    .. SlicePattern.Outputs($"{prefix}.attn.c_attn", queryKeyValue, headDim, offset: 2 * width),
                    SlicePattern.Inputs($"{prefix}.attn.c_proj", output, headDim),
                ]),
                new(CoupledKind.Neuron, $"{prefix}.mlp", shape.Neurons,
                [
                    .. SlicePattern.Outputs($"{prefix}.mlp.c_fc", fc, 1),
                    SlicePattern.Inputs($"{prefix}.mlp.c_proj", project, 1),
                ]),
            ];
        }
    }

    public override IReadOnlyList<SlicePattern> HiddenChannelSlices =>
    [
        .. SlicePattern.Whole($"{prefix}.ln_1", norm1),
        SlicePattern.Inputs($"{prefix}.attn.c_attn", queryKeyValue, 1),
        .. SlicePattern.Outputs($"{prefix}.attn.c_proj", output, 1),
        .. SlicePattern.Whole($"{prefix}.ln_2", norm2),
        SlicePattern.Inputs($"{prefix}.mlp.c_fc", fc, 1),
        .. SlicePattern.Outputs($"{prefix}.mlp.c_proj", project, 1),
    ];
}
