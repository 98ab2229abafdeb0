using System.Globalization;
using System.Text.RegularExpressions;
using Espalier.Checkpoints.Gguf;
using Espalier.Runtime;

namespace Espalier.Models.Export;

/// <summary>How llama.cpp knows one family: its name, its tensors, its keys. What it cannot run is refused here, in a sentence.</summary>
internal abstract partial class GgufFamily(ModelConfig config)
{
    /// <summary>The family of a configuration.</summary>
    /// <param name="config">With the name prefix that its checkpoint uses.</param>
    /// <exception cref="EspalierException">When llama.cpp cannot run such a model.</exception>
    public static GgufFamily For(ModelConfig config)
    {
        GgufFamily family = config.ModelType switch
        {
            "llama" or "mistral" or "qwen2" or "qwen3" => new LlamaGguf(config),
            "gpt2" => new Gpt2Gguf(config),
            "gpt_neox" => new GptNeoXGguf(config),
            _ => throw new EspalierException($"Models of type {config.ModelType} cannot be exported to GGUF: llama.cpp has no such architecture. It has those of llama, mistral, qwen2, qwen3, gpt2 and gpt_neox."),
        };
        family.Check();
        return family;
    }

    /// <summary>The architecture's name, which is also the prefix of its keys.</summary>
    public abstract string Name { get; }

    /// <summary>What the user should know, in sentences.</summary>
    public virtual IEnumerable<string> Notes => [];

    /// <summary>The tensors in the order of the file.</summary>
    public IReadOnlyList<TensorRule> Rules
    {
        get
        {
            Architecture architecture = Architecture.For(config);
            using Embedding embedding = architecture.CreateEmbedding(config, Placement.Meta);
            var rules = new List<TensorRule>(Of(embedding, config.ShapeOf(0)));
            for (int i = 0; i < config.LayerCount; i++)
            {
                using DecoderBlock block = architecture.CreateBlock(config, i, Placement.Meta);
                rules.AddRange(Of(block, config.ShapeOf(i)));
            }

            using OutputHead head = architecture.CreateHead(config, embedding, Placement.Meta);
            rules.AddRange(Of(head, config.ShapeOf(0)));
            return [.. rules, .. Copies(rules)];
        }
    }

    /// <summary>Tensors that no checkpoint has.</summary>
    public virtual IEnumerable<(string Name, float[] Values)> Computed => [];

    /// <summary>Adds the architecture's keys.</summary>
    public void Describe(GgufMetadata metadata)
    {
        BlockShape[] shapes = [.. Enumerable.Range(0, config.LayerCount).Select(config.ShapeOf)];
        metadata.Add($"{Name}.vocab_size", (uint)config.VocabSize);
        metadata.Add($"{Name}.context_length", (uint)config.MaxPositions);
        metadata.Add($"{Name}.embedding_length", (uint)config.HiddenSize);
        metadata.Add($"{Name}.block_count", (uint)config.LayerCount);
        metadata.Add($"{Name}.feed_forward_length", PerBlock(s => s.Neurons));
        metadata.Add($"{Name}.attention.head_count", PerBlock(s => s.Heads));
        metadata.Add($"{Name}.attention.head_count_kv", PerBlock(s => s.KeyValueHeads));
        metadata.Add($"{Name}.attention.key_length", (uint)config.HeadDim);
        metadata.Add($"{Name}.attention.value_length", (uint)config.HeadDim);
        if (config.Rope is { } rope)
        {
            metadata.Add($"{Name}.rope.dimension_count", (uint)TurnedDimensions);
            metadata.Add($"{Name}.rope.freq_base", (float)rope.Theta);
            if (rope.Scaling == RopeScaling.Linear)
            {
                metadata.Add($"{Name}.rope.scaling.type", "linear");
                metadata.Add($"{Name}.rope.scaling.factor", (float)rope.Factor);
            }
        }

        DescribeMore(metadata);

        // One number where all blocks are alike, else a list.
        object PerBlock(Func<BlockShape, int> size) =>
            IsUniform ? (uint)size(shapes[0]) : shapes.Select(s => (uint)size(s)).ToArray();
    }

    protected ModelConfig Config => config;

    protected bool IsUniform => Enumerable.Range(0, config.LayerCount).Select(config.ShapeOf).Distinct().Count() == 1;

    /// <summary>Module names of the checkpoint, without the prefix and the block's number, and what they are called in the file.</summary>
    protected abstract IReadOnlyDictionary<string, string> Modules { get; }

    /// <summary>The dimensions of a head that are turned.</summary>
    protected virtual int TurnedDimensions => config.HeadDim;

    protected abstract void DescribeMore(GgufMetadata metadata);

    protected abstract void Check();

    /// <summary>How the rows of a module are arranged anew.</summary>
    protected abstract (Rearrangement Way, int Heads) Arrange(string module, string leaf, BlockShape shape);

    /// <summary>Tensors that the file holds once more under another name.</summary>
    protected virtual IEnumerable<TensorRule> Copies(IReadOnlyList<TensorRule> rules) => [];

    protected void Require(bool holds, string what) =>
        EspalierException.Require(holds, $"{config.Fields.Origin}: {what}");

    /// <summary>What to know where the model computes GELU exactly.</summary>
    protected IEnumerable<string> GeluNotes => config.Activation is "gelu" or "gelu_python"
        ? [$"llama.cpp computes GELU by its tanh approximation and this {config.ModelType} exactly; logits differ a little there."]
        : [];

    protected void RequireGelu() =>
        Require(config.Activation.StartsWith("gelu", StringComparison.Ordinal), $"llama.cpp runs models of type {config.ModelType} with the activation GELU only, and this one has '{config.Activation}'; it cannot be exported to GGUF.");

    protected void RequireSharedOut()
    {
        Require(IsUniform, $"llama.cpp has no {config.ModelType} whose blocks differ in heads or neurons; cut every block alike (--uniform) to export it.");
        Require(config.HeadCount * config.HeadDim == config.HiddenSize, $"llama.cpp shares the width of a {config.ModelType} out among its heads, and {config.HeadCount} heads of width {config.HeadDim} do not make {config.HiddenSize}; keep all heads (cut neurons or layers instead) to export it.");
    }

    private IEnumerable<TensorRule> Of(ModelPart part, BlockShape shape)
    {
        foreach ((string name, var value) in part.Tensors)
        {
            string bare = name.StartsWith(config.TensorPrefix, StringComparison.Ordinal) ? name[config.TensorPrefix.Length..] : name;
            Match match = TensorName().Match(bare);
            (string block, string module, string leaf) = (match.Groups["block"].Value, match.Groups["module"].Value, match.Groups["leaf"].Value);
            string target = (block.Length > 0 ? $"blk.{block}." : "") + $"{Modules[module]}.{leaf}";
            (Rearrangement way, int heads) = Arrange(module, leaf, shape);
            yield return new TensorRule(target, name, value.shape, way, heads);
        }
    }

    [GeneratedRegex(@"^(?:(?:layers|h)\.(?<block>\d+)\.)?(?<module>.+)\.(?<leaf>weight|bias)$")]
    private static partial Regex TensorName();
}

/// <summary>Llama, Mistral, Qwen2 and Qwen3. Blocks of different shapes go as "deci", llama.cpp's Llama with sizes per block.</summary>
internal sealed class LlamaGguf(ModelConfig config) : GgufFamily(config)
{
    private bool IsLlama => Config.ModelType is "llama" or "mistral";

    public override string Name => !IsLlama ? Config.ModelType : IsUniform ? "llama" : "deci";

    public override IEnumerable<string> Notes
    {
        get
        {
            var family = (Llama)Architecture.For(Config);
            int? window = Enumerable.Range(0, Config.LayerCount).Select(i => family.TraitsOf(Config, i).Window).FirstOrDefault(w => w is not null);
            return window < Config.MaxPositions
                ? [string.Create(CultureInfo.InvariantCulture, $"llama.cpp has no sliding window for {Config.ModelType}; texts of more than {window} tokens are read otherwise there.")]
                : [];
        }
    }

    /// <summary>Llama-3's scaling is a divisor for every turning speed.</summary>
    public override IEnumerable<(string Name, float[] Values)> Computed
    {
        get
        {
            RopeSettings rope = Config.Rope!;
            if (rope.Scaling != RopeScaling.Llama3)
            {
                return [];
            }

            double[] plain = (rope with { Scaling = RopeScaling.None }).Frequencies(Config.HeadDim);
            return [("rope_freqs.weight", [.. rope.Frequencies(Config.HeadDim).Select((scaled, i) => (float)(plain[i] / scaled))])];
        }
    }

    protected override IReadOnlyDictionary<string, string> Modules { get; } = new Dictionary<string, string>
    {
        ["embed_tokens"] = "token_embd", ["norm"] = "output_norm", ["lm_head"] = "output",
        ["input_layernorm"] = "attn_norm", ["post_attention_layernorm"] = "ffn_norm",
        ["self_attn.q_proj"] = "attn_q", ["self_attn.k_proj"] = "attn_k", ["self_attn.v_proj"] = "attn_v", ["self_attn.o_proj"] = "attn_output",
        ["self_attn.q_norm"] = "attn_q_norm", ["self_attn.k_norm"] = "attn_k_norm",
        ["mlp.gate_proj"] = "ffn_gate", ["mlp.up_proj"] = "ffn_up", ["mlp.down_proj"] = "ffn_down",
    };

    protected override (Rearrangement Way, int Heads) Arrange(string module, string leaf, BlockShape shape) => module switch
    {
        "self_attn.q_proj" when IsLlama => (Rearrangement.HalvesToPairs, shape.Heads),
        "self_attn.k_proj" when IsLlama => (Rearrangement.HalvesToPairs, shape.KeyValueHeads),
        _ => (Rearrangement.None, 1),
    };

    protected override void DescribeMore(GgufMetadata metadata) => metadata.Add($"{Name}.attention.layer_norm_rms_epsilon", (float)Config.NormEpsilon);

    protected override void Check()
    {
        Require(Config.Activation is "silu" or "swish", $"llama.cpp runs models of type {Config.ModelType} with the activation silu only, and this one has '{Config.Activation}'; it cannot be exported to GGUF.");
        Require(IsLlama || IsUniform, $"llama.cpp has no {Config.ModelType} whose blocks differ in heads or neurons; cut every block alike (--uniform) to export it.");
        Require(IsLlama || Config.Rope!.Scaling != RopeScaling.Llama3, $"llama.cpp has no Llama-3 scaling of rotary positions for {Config.ModelType}; remove the scaling to export the model for its original context.");
        Require(Config.ModelType != "qwen3" || !Config.Fields.Flag("attention_bias", false), "llama.cpp has no attention biases for qwen3; the model cannot be exported to GGUF.");
    }
}

/// <summary>GPT-2: maps as [out, in]; the head's width must be the quotient of the sizes.</summary>
internal sealed class Gpt2Gguf(ModelConfig config) : GgufFamily(config)
{
    public override string Name => "gpt2";

    public override IEnumerable<string> Notes => GeluNotes;

    protected override IReadOnlyDictionary<string, string> Modules { get; } = new Dictionary<string, string>
    {
        ["wte"] = "token_embd", ["wpe"] = "position_embd", ["ln_f"] = "output_norm", ["lm_head"] = "output",
        ["ln_1"] = "attn_norm", ["ln_2"] = "ffn_norm", ["attn.c_attn"] = "attn_qkv", ["attn.c_proj"] = "attn_output", ["mlp.c_fc"] = "ffn_up", ["mlp.c_proj"] = "ffn_down",
    };

    protected override (Rearrangement Way, int Heads) Arrange(string module, string leaf, BlockShape shape) =>
        (leaf == "weight" && (module.StartsWith("attn.", StringComparison.Ordinal) || module.StartsWith("mlp.", StringComparison.Ordinal)) ? Rearrangement.Transposed : Rearrangement.None, 1);

    protected override void DescribeMore(GgufMetadata metadata) => metadata.Add("gpt2.attention.layer_norm_epsilon", (float)Config.NormEpsilon);

    protected override void Check()
    {
        RequireGelu();
        RequireSharedOut();
        Require(Config.Fields.Flag("scale_attn_weights", true) && !Config.Fields.Flag("scale_attn_by_inverse_layer_idx", false), "llama.cpp scales GPT-2's attention by the width of a head only; this model's other scaling cannot be exported.");
    }
}

/// <summary>GPT-NeoX: queries, keys and values apart; the head's width must be the quotient of the sizes.</summary>
internal sealed class GptNeoXGguf(ModelConfig config) : GgufFamily(config)
{
    public override string Name => "gptneox";

    public override IEnumerable<string> Notes => GeluNotes;

    protected override IReadOnlyDictionary<string, string> Modules { get; } = new Dictionary<string, string>
    {
        ["embed_in"] = "token_embd", ["final_layer_norm"] = "output_norm", ["embed_out"] = "output",
        ["input_layernorm"] = "attn_norm", ["post_attention_layernorm"] = "ffn_norm",
        ["attention.query_key_value"] = "attn_qkv", ["attention.dense"] = "attn_output", ["mlp.dense_h_to_4h"] = "ffn_up", ["mlp.dense_4h_to_h"] = "ffn_down",
    };

    protected override int TurnedDimensions => GptNeoX.RotaryDimensions(Config.Fields, Config.HeadDim);

    protected override (Rearrangement Way, int Heads) Arrange(string module, string leaf, BlockShape shape) =>
        module == "attention.query_key_value" ? (Rearrangement.HeadsToParts, shape.Heads) : (Rearrangement.None, 1);

    // llama.cpp has no tied head for this family.
    protected override IEnumerable<TensorRule> Copies(IReadOnlyList<TensorRule> rules) =>
        Config.TieWordEmbeddings ? [rules[0] with { Target = "output.weight" }] : [];

    protected override void DescribeMore(GgufMetadata metadata)
    {
        metadata.Add("gptneox.attention.layer_norm_epsilon", (float)Config.NormEpsilon);
        metadata.Add("gptneox.use_parallel_residual", Config.Fields.Flag("use_parallel_residual", true));
    }

    protected override void Check()
    {
        RequireGelu();
        RequireSharedOut();
        Require(Config.Rope!.Scaling != RopeScaling.Llama3, "llama.cpp has no Llama-3 scaling of rotary positions for gpt_neox; remove the scaling to export the model for its original context.");
        Require(Config.Fields.Flag("attention_bias", true), "llama.cpp needs GPT-NeoX's attention biases, and this model has none; it cannot be exported to GGUF.");
    }
}
