using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Checkpoints.Onnx;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Export.Onnx;

/// <summary>
/// A decoder language model as a graph: <c>input_ids</c> [batch, tokens] to <c>logits</c> [batch, tokens, vocabulary]; with a
/// cache also <c>past_key_values.N.key</c> and <c>.value</c> [batch, heads, past, width] to <c>present.N.key</c> and <c>.value</c>.
/// </summary>
/// <remarks>Letters in names: B batch, T new tokens, S all tokens, H hidden, N query heads, G key-value heads, D head width, F neurons.</remarks>
internal abstract class DecoderGraph
{
    /// <summary>Stands for -∞ before the softmax.</summary>
    private const float Hidden = float.MinValue;

    private readonly ITensorSource source;
    private readonly bool cache;
    private readonly Dictionary<int, string> masks = [];
    private string queries_T1 = "", keys_1S = "";

    protected DecoderGraph(ModelConfig config, ITensorSource source, OnnxType type, bool cache)
    {
        (Config, this.source, this.cache) = (config, source, cache);
        B = new OnnxBuilder(config.ModelType, type);
        Layers = new OnnxLayers(B, source);
    }

    /// <summary>Builds the graph of a model.</summary>
    /// <param name="config">Its configuration, with the prefix that the checkpoint uses.</param>
    /// <param name="source">Its tensors; read when the graph is written.</param>
    /// <param name="type">How weights are stored.</param>
    /// <param name="cache">Whether keys and values of earlier tokens go in and out.</param>
    /// <exception cref="EspalierException">When the model cannot be a graph of standard operators.</exception>
    public static OnnxBuilder Build(ModelConfig config, ITensorSource source, OnnxType type, bool cache)
    {
        DecoderGraph graph = config.ModelType switch
        {
            "llama" or "mistral" or "qwen2" or "qwen3" => new LlamaGraph(config, source, type, cache),
            "gpt2" => new Gpt2Graph(config, source, type, cache),
            "gpt_neox" => new GptNeoXGraph(config, source, type, cache),
            "opt" => new OptGraph(config, source, type, cache),
            _ => throw new EspalierException($"Models of type {config.ModelType} cannot be exported to ONNX; those of llama, mistral, qwen2, qwen3, gpt2, gpt_neox and opt can."),
        };
        graph.Run();
        return graph.B;
    }

    protected OnnxBuilder B { get; }

    protected OnnxLayers Layers { get; }

    protected ModelConfig Config { get; }

    protected string Prefix => Config.TensorPrefix;

    /// <summary>The positions of the new tokens [T].</summary>
    protected string Positions { get; private set; } = "";

    /// <summary>ids [B, T] to the first hidden states [B, T, H].</summary>
    protected abstract string Embed(string ids_BT);

    /// <summary>Hidden states through one block.</summary>
    protected abstract string Block(string x_BTH, int index);

    /// <summary>The norm before the head, and a projection where there is one.</summary>
    protected abstract string Finish(string x_BTH);

    /// <summary>The names of the token table and of the head that is not tied to it.</summary>
    protected abstract (string Table, string Head) Ends { get; }

    protected string Add(string a, string b) => B.Node("Add", [a, b]);

    /// <summary>[B, T, heads·D] to [B, heads, T, D].</summary>
    protected string Heads(string x_BTC, long heads, long width) =>
        B.Node("Transpose", [B.Node("Reshape", [x_BTC, B.List(0, 0, heads, width)])], ("perm", new long[] { 0, 2, 1, 3 }));

    /// <summary>Turns the first dimensions of every head by its token's position.</summary>
    protected string Turn(string x_BNTD, int turned)
    {
        (string cos, string sin) = (Table("cos"), Table("sin"));
        long half = turned / 2, rest = Config.HeadDim - turned;
        string[] pieces = B.Split(x_BNTD, rest == 0 ? [half, half] : [half, half, rest]);
        string first = B.Node("Sub", [B.Node("Mul", [pieces[0], cos]), B.Node("Mul", [pieces[1], sin])]);
        string second = Add(B.Node("Mul", [pieces[1], cos]), B.Node("Mul", [pieces[0], sin]));
        return B.Node("Concat", [first, second, .. pieces[2..]], ("axis", -1L));

        // As a table: angles of late positions need more than float32.
        string Table(string function) => B.Node("Gather", [B.Weight($"rotary.{function}", [Config.MaxPositions, turned / 2], () => Angles(turned, function), exact: true), Positions]);
    }

    /// <summary>softmax(q kᵀ · scale + mask) v, joined to [B, T, N·D].</summary>
    protected string Attend(string q_BNTD, string k_BGTD, string v_BGTD, int index, int? window = null, double queryScale = 1)
    {
        BlockShape shape = Config.ShapeOf(index);
        string k_BNSD = Spread(Remember(k_BGTD, "key")), v_BNSD = Spread(Remember(v_BGTD, "value"));
        string scaled = B.Node("Mul", [q_BNTD, B.Scalar((float)(queryScale / Math.Sqrt(Config.HeadDim)))]);
        string scores = B.Node("MatMul", [scaled, B.Node("Transpose", [k_BNSD], ("perm", new long[] { 0, 1, 3, 2 }))]);
        string weights = B.Node("Softmax", [B.Node("Where", [Seen(window), scores, B.Scalar(Hidden)])], ("axis", -1L));
        string y_BTND = B.Node("Transpose", [B.Node("MatMul", [weights, v_BNSD])], ("perm", new long[] { 0, 2, 1, 3 }));
        return B.Node("Reshape", [y_BTND, B.List(0, 0, (long)shape.Heads * Config.HeadDim)]);

        string Remember(string x_BGTD, string what)
        {
            if (!cache)
            {
                return x_BGTD;
            }

            string present = string.Create(CultureInfo.InvariantCulture, $"present.{index}.{what}");
            B.Output(present, OnnxType.F32, "batch", shape.KeyValueHeads, "all", Config.HeadDim);
            return B.Node("Concat", [Past(index, what), x_BGTD], present, ("axis", 2L));
        }

        string Spread(string x_BGSD)
        {
            long served = shape.Heads / shape.KeyValueHeads;
            return served == 1
                ? x_BGSD
                : B.Node("Reshape", [B.Node("Expand", [B.Node("Unsqueeze", [x_BGSD, B.List(2)]), B.List(1, 1, served, 1, 1)]), B.List(0, shape.Heads, -1, Config.HeadDim)]);
        }
    }

    private void Run()
    {
        string ids_BT = B.Input("input_ids", OnnxType.I64, "batch", "tokens");
        if (cache)
        {
            for (int i = 0; i < Config.LayerCount; i++)
            {
                foreach (string what in (string[])["key", "value"])
                {
                    B.Input(Past(i, what), OnnxType.F32, "batch", Config.ShapeOf(i).KeyValueHeads, "past", Config.HeadDim);
                }
            }
        }

        B.Output("logits", OnnxType.F32, "batch", "tokens", Config.VocabSize);
        string past = cache ? Size(Past(0, "key"), 2) : B.Scalar(0L), end = cache ? Add(past, Size(ids_BT, 1)) : Size(ids_BT, 1);
        Positions = B.Node("Range", [past, end, B.Scalar(1L)]);
        string all = cache ? B.Node("Range", [B.Scalar(0L), end, B.Scalar(1L)]) : Positions;
        (queries_T1, keys_1S) = (B.Node("Unsqueeze", [Positions, B.List(1)]), B.Node("Unsqueeze", [all, B.List(0)]));
        string x_BTH = Embed(ids_BT);
        for (int i = 0; i < Config.LayerCount; i++)
        {
            x_BTH = Block(x_BTH, i);
        }

        x_BTH = Finish(x_BTH);
        B.Node("Identity", [Config.TieWordEmbeddings ? Layers.Tied(x_BTH, Ends.Table) : Layers.Linear(x_BTH, Ends.Head)], "logits");
    }

    protected bool Has(string name) => source.Contains(name);

    private static string Past(int index, string what) => string.Create(CultureInfo.InvariantCulture, $"past_key_values.{index}.{what}");

    private string Size(string value, long axis) => B.Node("Gather", [B.Node("Shape", [value]), B.Scalar(axis)]);

    /// <summary>Where a query may look [T, S]: at its own token and those before it, within the window.</summary>
    private string Seen(int? window)
    {
        int key = window ?? 0;
        if (!masks.TryGetValue(key, out string? seen))
        {
            seen = B.Node("GreaterOrEqual", [queries_T1, keys_1S]);
            seen = window is { } w ? B.Node("And", [seen, B.Node("Less", [B.Node("Sub", [queries_T1, keys_1S]), B.Scalar((long)w)])]) : seen;
            masks[key] = seen;
        }

        return seen;
    }

    private Tensor Angles(int turned, string function)
    {
        using var scope = NewDisposeScope();
        Tensor angles = outer(arange(Config.MaxPositions, ScalarType.Float64), tensor(Config.Rope!.Frequencies(turned)));
        return (function == "cos" ? angles.cos() : angles.sin()).to(ScalarType.Float32).MoveToOuterDisposeScope();
    }
}
