using Espalier.Checkpoints;
using Espalier.Checkpoints.Onnx;

namespace Espalier.Models.Export.Onnx;

/// <summary>Llama, Mistral, Qwen2 and Qwen3.</summary>
internal sealed class LlamaGraph(ModelConfig config, ITensorSource source, OnnxType type, bool cache) : DecoderGraph(config, source, type, cache)
{
    protected override (string Table, string Head) Ends => ($"{Prefix}embed_tokens", "lm_head");

    protected override string Embed(string ids_BT) => Layers.Lookup(Ends.Table, ids_BT);

    protected override string Finish(string x_BTH) => Layers.RmsNorm(x_BTH, $"{Prefix}norm", Config.NormEpsilon);

    protected override string Block(string x_BTH, int index)
    {
        string prefix = $"{Prefix}layers.{index}", attention = $"{prefix}.self_attn", mlp = $"{prefix}.mlp";
        BlockShape shape = Config.ShapeOf(index);
        Llama.Traits traits = ((Llama)Architecture.For(Config)).TraitsOf(Config, index);
        string normed = Layers.RmsNorm(x_BTH, $"{prefix}.input_layernorm", Config.NormEpsilon);
        string q_BNTD = Heads(Layers.Linear(normed, $"{attention}.q_proj"), shape.Heads, Config.HeadDim);
        string k_BGTD = Heads(Layers.Linear(normed, $"{attention}.k_proj"), shape.KeyValueHeads, Config.HeadDim);
        string v_BGTD = Heads(Layers.Linear(normed, $"{attention}.v_proj"), shape.KeyValueHeads, Config.HeadDim);
        if (traits.HeadNorms)
        {
            q_BNTD = Layers.RmsNorm(q_BNTD, $"{attention}.q_norm", Config.NormEpsilon);
            k_BGTD = Layers.RmsNorm(k_BGTD, $"{attention}.k_norm", Config.NormEpsilon);
        }

        string y_BTC = Attend(Turn(q_BNTD, Config.HeadDim), Turn(k_BGTD, Config.HeadDim), v_BGTD, index, traits.Window);
        x_BTH = Add(x_BTH, Layers.Linear(y_BTC, $"{attention}.o_proj"));
        normed = Layers.RmsNorm(x_BTH, $"{prefix}.post_attention_layernorm", Config.NormEpsilon);
        string gate_BTF = Layers.Activate(Layers.Linear(normed, $"{mlp}.gate_proj"), Config);
        return Add(x_BTH, Layers.Linear(B.Node("Mul", [gate_BTF, Layers.Linear(normed, $"{mlp}.up_proj")]), $"{mlp}.down_proj"));
    }
}

/// <summary>GPT-2: one map for queries, keys and values side by side; maps as [in, out].</summary>
internal sealed class Gpt2Graph(ModelConfig config, ITensorSource source, OnnxType type, bool cache) : DecoderGraph(config, source, type, cache)
{
    protected override (string Table, string Head) Ends => ($"{Prefix}wte", "lm_head");

    protected override string Embed(string ids_BT) => Add(Layers.Lookup(Ends.Table, ids_BT), Layers.Lookup($"{Prefix}wpe", Positions));

    protected override string Finish(string x_BTH) => Norm(x_BTH, $"{Prefix}ln_f");

    protected override string Block(string x_BTH, int index)
    {
        string prefix = $"{Prefix}h.{index}";
        int heads = Config.ShapeOf(index).Heads;
        long width = (long)heads * Config.HeadDim;
        string[] parts = [.. B.Split(Linear(Norm(x_BTH, $"{prefix}.ln_1"), $"{prefix}.attn.c_attn"), width, width, width).Select(p => Heads(p, heads, Config.HeadDim))];
        double scale = (Config.Fields.Flag("scale_attn_weights", true) ? 1 : Math.Sqrt(Config.HeadDim)) / (Config.Fields.Flag("scale_attn_by_inverse_layer_idx", false) ? index + 1 : 1);
        x_BTH = Add(x_BTH, Linear(Attend(parts[0], parts[1], parts[2], index, queryScale: scale), $"{prefix}.attn.c_proj"));
        string neurons_BTF = Layers.Activate(Linear(Norm(x_BTH, $"{prefix}.ln_2"), $"{prefix}.mlp.c_fc"), Config);
        return Add(x_BTH, Linear(neurons_BTF, $"{prefix}.mlp.c_proj"));
    }

    private string Linear(string x, string name) => Layers.Linear(x, name, WeightLayout.InOut);

    private string Norm(string x, string name) => Layers.LayerNorm(x, name, Config.HiddenSize, Config.NormEpsilon);
}

/// <summary>GPT-NeoX: query, key and value head by head; the first part of each head is turned; attention and feed-forward side by side.</summary>
internal sealed class GptNeoXGraph(ModelConfig config, ITensorSource source, OnnxType type, bool cache) : DecoderGraph(config, source, type, cache)
{
    protected override (string Table, string Head) Ends => ($"{Prefix}embed_in", "embed_out");

    protected override string Embed(string ids_BT) => Layers.Lookup(Ends.Table, ids_BT);

    protected override string Finish(string x_BTH) => Norm(x_BTH, $"{Prefix}final_layer_norm");

    protected override string Block(string x_BTH, int index)
    {
        string prefix = $"{Prefix}layers.{index}", fused = Layers.Linear(Norm(x_BTH, $"{prefix}.input_layernorm"), $"{prefix}.attention.query_key_value");
        int width = Config.HeadDim, turned = GptNeoX.RotaryDimensions(Config.Fields, width);
        string[] parts = B.Split(Heads(fused, Config.ShapeOf(index).Heads, 3L * width), width, width, width);
        string attended = Add(x_BTH, Layers.Linear(Attend(Turn(parts[0], turned), Turn(parts[1], turned), parts[2], index), $"{prefix}.attention.dense"));
        string normed = Norm(Config.Fields.Flag("use_parallel_residual", true) ? x_BTH : attended, $"{prefix}.post_attention_layernorm");
        return Add(attended, Layers.Linear(Layers.Activate(Layers.Linear(normed, $"{prefix}.mlp.dense_h_to_4h"), Config), $"{prefix}.mlp.dense_4h_to_h"));
    }

    private string Norm(string x, string name) => Layers.LayerNorm(x, name, Config.HiddenSize, Config.NormEpsilon);
}

/// <summary>OPT: learned positions from row 2 on; norms before each part or after it; in some models a projection in and out.</summary>
internal sealed class OptGraph(ModelConfig config, ITensorSource source, OnnxType type, bool cache) : DecoderGraph(config, source, type, cache)
{
    protected override (string Table, string Head) Ends => ($"{Prefix}embed_tokens", "lm_head");

    protected override string Embed(string ids_BT)
    {
        string x = Layers.Lookup(Ends.Table, ids_BT);
        x = Has($"{Prefix}project_in.weight") ? Layers.Linear(x, $"{Prefix}project_in") : x;
        return Add(x, Layers.Lookup($"{Prefix}embed_positions", Add(Positions, B.Scalar(Opt.PositionOffset))));
    }

    protected override string Finish(string x_BTH)
    {
        string x = Opt.HasFinalNorm(Config) ? Norm(x_BTH, $"{Prefix}final_layer_norm") : x_BTH;
        return Has($"{Prefix}project_out.weight") ? Layers.Linear(x, $"{Prefix}project_out") : x;
    }

    protected override string Block(string x_BTH, int index)
    {
        string prefix = $"{Prefix}layers.{index}";
        if (Opt.NormFirst(Config))
        {
            x_BTH = Add(x_BTH, Attention(Norm(x_BTH, $"{prefix}.self_attn_layer_norm"), prefix, index));
            return Add(x_BTH, FeedForward(Norm(x_BTH, $"{prefix}.final_layer_norm"), prefix));
        }

        x_BTH = Norm(Add(x_BTH, Attention(x_BTH, prefix, index)), $"{prefix}.self_attn_layer_norm");
        return Norm(Add(x_BTH, FeedForward(x_BTH, prefix)), $"{prefix}.final_layer_norm");
    }

    private string Attention(string x_BTH, string prefix, int index)
    {
        string[] parts = [.. new[] { "q_proj", "k_proj", "v_proj" }.Select(map => Heads(Layers.Linear(x_BTH, $"{prefix}.self_attn.{map}"), Config.ShapeOf(index).Heads, Config.HeadDim))];
        return Layers.Linear(Attend(parts[0], parts[1], parts[2], index), $"{prefix}.self_attn.out_proj");
    }

    private string FeedForward(string x_BTH, string prefix) => Layers.Linear(Layers.Activate(Layers.Linear(x_BTH, $"{prefix}.fc1"), Config), $"{prefix}.fc2");

    private string Norm(string x, string name) => Layers.LayerNorm(x, name, Config.HiddenSize, Config.NormEpsilon);
}
