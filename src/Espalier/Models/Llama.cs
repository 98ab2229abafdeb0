using Espalier.Models.Decoding;
using Espalier.Runtime;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Espalier.Models;

/// <summary>
/// Llama (Touvron et al. 2023) and what descends from it: pre-norm blocks, RMS norms, rotary positions, grouped
/// queries, a gated feed-forward. Mistral, Qwen2 and Qwen3 differ in their <see cref="Traits"/>.
/// </summary>
/// <remarks>Letters in names: B batch, T tokens, H hidden, N query heads, G key-value heads, D head width, F neurons.</remarks>
internal class Llama : Architecture
{
    public override string ModelType => "llama";

    public override IReadOnlyList<string> Prefixes => ["model.", ""];

    /// <summary>What one block has beyond the plain one.</summary>
    /// <param name="QueryKeyValueBias">Biases on the query, key and value maps.</param>
    /// <param name="OutputBias">A bias on the attention's output map.</param>
    /// <param name="NeuronBias">Biases in the feed-forward part.</param>
    /// <param name="HeadNorms">RMS norms on every query and key head.</param>
    /// <param name="Window">How many tokens a query sees; null for all.</param>
    internal sealed record Traits(bool QueryKeyValueBias = false, bool OutputBias = false, bool NeuronBias = false, bool HeadNorms = false, int? Window = null);

    internal override ModelConfig ReadConfig(ConfigFields fields) => ReadConfig(fields, defaultHeadDim: null, defaultKeyValueHeads: null);

    internal override SizeFields Sizes { get; } = new(["hidden_size"], ["num_hidden_layers"], ["num_attention_heads"], ["intermediate_size"], "num_key_value_heads");

    internal override bool ReadsHeadWidth => true;

    internal override string? ReaderBiasField(bool attention) => attention ? "attention_bias" : "mlp_bias";

    public override Embedding CreateEmbedding(ModelConfig c, Placement? placement = null) =>
        new TokenEmbedding(c, $"{c.TensorPrefix}embed_tokens", placement ?? Placement.Default);

    public override DecoderBlock CreateBlock(ModelConfig c, int index, Placement? placement = null) =>
        new LlamaBlock(c, index, TraitsOf(c, index), placement ?? Placement.Default);

    public override OutputHead CreateHead(ModelConfig c, Embedding embedding, Placement? placement = null)
    {
        placement ??= Placement.Default;
        return new TokenHead(c, embedding, ($"{c.TensorPrefix}norm", new RmsNorm(c.HiddenSize, c.NormEpsilon, placement)), "lm_head", placement);
    }

    public override IReadOnlyList<string> Ignorable(ModelConfig c) => ["*.rotary_emb.inv_freq", .. c.TieWordEmbeddings ? ["lm_head.weight"] : Array.Empty<string>()];

    /// <summary>What this family's block number <paramref name="index"/> has.</summary>
    protected internal virtual Traits TraitsOf(ModelConfig c, int index)
    {
        bool attention = c.Fields.Flag("attention_bias", false);
        return new Traits(attention, attention, c.Fields.Flag("mlp_bias", false));
    }

    /// <summary>Reads what the four families share.</summary>
    protected static ModelConfig ReadConfig(ConfigFields fields, int? defaultHeadDim, int? defaultKeyValueHeads)
    {
        int hidden = fields.Positive("hidden_size");
        int heads = fields.Positive("num_attention_heads");
        int headDim = fields.Optional("head_dim") ?? defaultHeadDim ?? EvenHeadDim(fields, hidden, heads);
        int maxPositions = fields.Positive("max_position_embeddings");
        EspalierException.Require(headDim % 2 == 0, $"{fields.Origin}: a head width of {headDim} cannot carry rotary positions, which turn pairs; it must be even.");
        // An absent number takes the family's default where that fits; an explicit null means no grouping.
        int standIn = defaultKeyValueHeads is { } usual && !fields.Mentions("num_key_value_heads") && heads % usual == 0 ? usual : heads;
        return new ModelConfig
        {
            ModelType = fields.Text("model_type", ""),
            HiddenSize = hidden,
            IntermediateSize = fields.Positive("intermediate_size"),
            LayerCount = fields.Positive("num_hidden_layers"),
            HeadCount = heads,
            KeyValueHeadCount = fields.PositiveOr(standIn, "num_key_value_heads"),
            HeadDim = headDim,
            VocabSize = fields.Positive("vocab_size"),
            MaxPositions = maxPositions,
            NormEpsilon = fields.Number("rms_norm_eps", 1e-6),
            Activation = fields.Activation("hidden_act", "silu"),
            TieWordEmbeddings = fields.Flag("tie_word_embeddings", false),
            Rope = RopeSettings.Read(fields, maxPositions),
            InitializerRange = fields.Number("initializer_range", 0.02),
            BosTokenId = fields.Optional("bos_token_id", least: 0),
            EosTokenIds = fields.WholeOrList("eos_token_id"),
            TensorPrefix = "model.",
            Fields = fields,
        };
    }
}

/// <summary>x + attention(norm(x)), then x + down(act(gate(norm(x))) ⊙ up(norm(x))).</summary>
internal sealed class LlamaBlock : DecoderBlock
{
    private readonly string prefix;
    private readonly Llama.Traits traits;
    private readonly BlockShape shape;
    private readonly Rotary rotary;
    private readonly int headDim;
    private readonly bool skips;
    private readonly RmsNorm inputNorm, postAttentionNorm;
    private readonly RmsNorm? queryNorm, keyNorm;
    private readonly Linear query, key, value, output, gate, up, down;

    public LlamaBlock(ModelConfig c, int index, Llama.Traits traits, Placement p)
        : base(nameof(LlamaBlock), index)
    {
        (this.traits, shape, headDim) = (traits, c.ShapeOf(index), c.HeadDim);
        prefix = $"{c.TensorPrefix}layers.{index}";
        rotary = new Rotary(c.Rope!, headDim);
        Activation = Activations.Of(c);
        skips = Activations.GivesZeros(c.Activation);
        (long hidden, long queryWidth, long keyWidth, long neurons) = (c.HiddenSize, shape.Heads * (long)headDim, shape.KeyValueHeads * (long)headDim, shape.Neurons);

        inputNorm = Add($"{prefix}.input_layernorm", new RmsNorm(hidden, c.NormEpsilon, p));
        query = Add($"{prefix}.self_attn.q_proj", new Linear("q_proj", hidden, queryWidth, traits.QueryKeyValueBias, p));
        key = Add($"{prefix}.self_attn.k_proj", new Linear("k_proj", hidden, keyWidth, traits.QueryKeyValueBias, p));
        value = Add($"{prefix}.self_attn.v_proj", new Linear("v_proj", hidden, keyWidth, traits.QueryKeyValueBias, p));
        if (traits.HeadNorms)
        {
            queryNorm = Add($"{prefix}.self_attn.q_norm", new RmsNorm(headDim, c.NormEpsilon, p));
            keyNorm = Add($"{prefix}.self_attn.k_norm", new RmsNorm(headDim, c.NormEpsilon, p));
        }

        output = Add($"{prefix}.self_attn.o_proj", new Linear("o_proj", queryWidth, hidden, traits.OutputBias, p));
        postAttentionNorm = Add($"{prefix}.post_attention_layernorm", new RmsNorm(hidden, c.NormEpsilon, p));
        gate = Add($"{prefix}.mlp.gate_proj", new Linear("gate_proj", hidden, neurons, traits.NeuronBias, p));
        up = Add($"{prefix}.mlp.up_proj", new Linear("up_proj", hidden, neurons, traits.NeuronBias, p));
        down = Add($"{prefix}.mlp.down_proj", new Linear("down_proj", neurons, hidden, traits.NeuronBias, p));
    }

    public override Tensor Forward(Tensor hidden_BTH, long position = 0, KeyValueCache? cache = null)
    {
        using var scope = NewDisposeScope();
        Tensor x_BTH = hidden_BTH + Attend(inputNorm.call(hidden_BTH), position, cache);
        x_BTH = x_BTH + FeedForward(postAttentionNorm.call(x_BTH));
        return x_BTH.MoveToOuterDisposeScope();
    }

    private Tensor Attend(Tensor x_BTH, long position, KeyValueCache? cache)
    {
        Tensor q_BNTD = Attention.SplitHeads(query.call(x_BTH), shape.Heads);
        Tensor k_BGTD = Attention.SplitHeads(key.call(x_BTH), shape.KeyValueHeads);
        Tensor v_BGTD = Attention.SplitHeads(value.call(x_BTH), shape.KeyValueHeads);
        if (traits.HeadNorms)
        {
            (q_BNTD, k_BGTD) = (queryNorm!.call(q_BNTD), keyNorm!.call(k_BGTD));
        }

        (q_BNTD, k_BGTD) = (rotary.Turn(q_BNTD, position), rotary.Turn(k_BGTD, position));
        return output.call(Attention.Attend(q_BNTD, k_BGTD, v_BGTD, Index, cache, traits.Window));
    }

    private Tensor FeedForward(Tensor x_BTH)
    {
        Tensor z_BTF = Activation(gate.call(x_BTH)) * up.call(x_BTH);
        return down.call(z_BTF);
    }

    internal override void Step(StepRoom room, long position, KeyValueCache cache)
    {
        Span<float> x = room.Hidden, normed = room.Take(StepVector.Normed, x.Length), branch = room.Take(StepVector.Branch, x.Length);
        Span<float> q = room.Take(StepVector.Query, shape.Heads * headDim), k = room.Take(StepVector.Key, shape.KeyValueHeads * headDim), v = room.Take(StepVector.Value, k.Length);
        inputNorm.Step(x, normed);
        query.Step(normed, q);
        key.Step(normed, k);
        value.Step(normed, v);
        if (traits.HeadNorms)
        {
            queryNorm!.Step(q, q);
            keyNorm!.Step(k, k);
        }

        rotary.Turn(q, headDim, position);
        rotary.Turn(k, headDim, position);
        Span<float> attended = room.Take(StepVector.Attended, q.Length);
        StepMath.Attend(q, cache.Append(Index, k, v, shape.KeyValueHeads), traits.Window, attended);
        output.Step(attended, branch);
        TensorPrimitives.Add(x, branch, x);

        Span<float> z = room.Take(StepVector.Neurons, shape.Neurons), other = room.Take(StepVector.Up, shape.Neurons);
        postAttentionNorm.Step(x, normed);
        gate.Step(normed, z);
        StepMath.Activate(Activation, z);
        if (skips && room.FewActive(z, out ReadOnlySpan<int> active))
        {
            up.Step(normed, other, active);
        }
        else
        {
            up.Step(normed, other);
        }

        TensorPrimitives.Multiply(z, other, z);
        down.Step(z, branch);
        TensorPrimitives.Add(x, branch, x);
    }

    public override IReadOnlyList<BlockLinear> Linears =>
    [
        new($"{prefix}.self_attn.q_proj.weight", query, 0),
        new($"{prefix}.self_attn.k_proj.weight", key, 0),
        new($"{prefix}.self_attn.v_proj.weight", value, 0),
        new($"{prefix}.self_attn.o_proj.weight", output, 1),
        new($"{prefix}.mlp.gate_proj.weight", gate, 2),
        new($"{prefix}.mlp.up_proj.weight", up, 2),
        new($"{prefix}.mlp.down_proj.weight", down, 3),
    ];

    public override IReadOnlyList<(string Name, nn.Module<Tensor, Tensor> Norm)> StreamNorms => [($"{prefix}.input_layernorm", inputNorm), ($"{prefix}.post_attention_layernorm", postAttentionNorm)];

    public override IReadOnlyList<CoupledGroup> Groups
    {
        get
        {
            long served = (long)shape.Heads / shape.KeyValueHeads * headDim; // widths of all query heads of one group
            return
            [
                new(served == headDim ? CoupledKind.AttentionHead : CoupledKind.KeyValueGroup, $"{prefix}.self_attn", shape.KeyValueHeads,
                [
                    .. SlicePattern.Outputs($"{prefix}.self_attn.q_proj", query, served),
                    .. SlicePattern.Outputs($"{prefix}.self_attn.k_proj", key, headDim),
                    .. SlicePattern.Outputs($"{prefix}.self_attn.v_proj", value, headDim),
                    SlicePattern.Inputs($"{prefix}.self_attn.o_proj", output, served),
                ]),
                new(CoupledKind.Neuron, $"{prefix}.mlp", shape.Neurons,
                [
                    .. SlicePattern.Outputs($"{prefix}.mlp.gate_proj", gate, 1),
                    .. SlicePattern.Outputs($"{prefix}.mlp.up_proj", up, 1),
                    SlicePattern.Inputs($"{prefix}.mlp.down_proj", down, 1),
                ]),
            ];
        }
    }

    public override IReadOnlyList<SlicePattern> HiddenChannelSlices =>
    [
        .. SlicePattern.Whole($"{prefix}.input_layernorm", inputNorm),
        SlicePattern.Inputs($"{prefix}.self_attn.q_proj", query, 1),
        SlicePattern.Inputs($"{prefix}.self_attn.k_proj", key, 1),
        SlicePattern.Inputs($"{prefix}.self_attn.v_proj", value, 1),
        .. SlicePattern.Outputs($"{prefix}.self_attn.o_proj", output, 1),
        .. SlicePattern.Whole($"{prefix}.post_attention_layernorm", postAttentionNorm),
        SlicePattern.Inputs($"{prefix}.mlp.gate_proj", gate, 1),
        SlicePattern.Inputs($"{prefix}.mlp.up_proj", up, 1),
        .. SlicePattern.Outputs($"{prefix}.mlp.down_proj", down, 1),
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
