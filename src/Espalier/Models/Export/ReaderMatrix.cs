using Espalier.Checkpoints;
using Espalier.Checkpoints.Gguf;
using Espalier.Checkpoints.Onnx;
using Espalier.Models.Export.Onnx;
using Espalier.Runtime;

namespace Espalier.Models.Export;

/// <summary>Whether a program loads a written model.</summary>
public enum ReaderVerdict
{
    /// <summary>As it lies there.</summary>
    Loads,

    /// <summary>After <c>espalier export</c> or <c>espalier unpack</c>.</summary>
    Converted,

    /// <summary>Not at all.</summary>
    No,
}

/// <summary>One program and a written model.</summary>
/// <param name="Name">The program.</param>
/// <param name="Verdict">Whether it loads the model.</param>
/// <param name="How">By what command, or why not, in a sentence.</param>
public sealed record ReaderEntry(string Name, ReaderVerdict Verdict, string How)
{
    /// <summary>The verdict in a word or two.</summary>
    public string Word => Verdict switch { ReaderVerdict.Loads => "yes", ReaderVerdict.Converted => "converted", _ => "no" };
}

/// <summary>
/// Which programs load what a command has written. Espalier is proved: the output was opened anew. transformers is a check of the
/// rules that its classes follow; llama.cpp and ONNX Runtime are what export can write, and the tests run both on such files.
/// </summary>
public static class ReaderMatrix
{
    private const string Espalier = "Espalier", Transformers = "transformers", LlamaCpp = "llama.cpp", OnnxRuntime = "ONNX Runtime";

    private static readonly Dictionary<string, string> Classes = new(StringComparer.Ordinal)
    {
        ["llama"] = "LlamaForCausalLM", ["mistral"] = "MistralForCausalLM", ["qwen2"] = "Qwen2ForCausalLM", ["qwen3"] = "Qwen3ForCausalLM",
        ["opt"] = "OPTForCausalLM", ["gpt2"] = "GPT2LMHeadModel", ["gpt_neox"] = "GPTNeoXForCausalLM",
    };

    /// <summary>The readers of a checkpoint folder with dense tensors.</summary>
    /// <param name="folder">The folder, complete.</param>
    /// <param name="difference">The largest difference of logits when it was opened anew.</param>
    /// <exception cref="EspalierException">When the folder holds no checkpoint.</exception>
    public static IReadOnlyList<ReaderEntry> OfCheckpoint(string folder, double difference)
    {
        ModelConfig config = ModelConfig.Load(folder);
        using Checkpoint checkpoint = Checkpoint.Open(folder);
        config = Architecture.For(config).Recognize(config, checkpoint);
        return
        [
            Proved(FormattableString.Invariant($"opened anew, logits differ by at most {difference:G3}")),
            OfTransformers(config, checkpoint),
            Try(LlamaCpp, config, () =>
            {
                GgufFamily family = GgufFamily.For(config);
                GgufTokenizer.Describe(new GgufMetadata(), folder, config);
                string types = string.Join(", ", Enum.GetNames<GgufType>().Select(n => n.ToLowerInvariant()));
                return string.Join(' ', [$"espalier export --format gguf ({types}; architecture {family.Name}).", .. family.Notes]);
            }),
            Try(OnnxRuntime, config, () =>
            {
                DecoderGraph.Build(config, checkpoint, OnnxType.F32, cache: false);
                return "espalier export --format onnx (f32, f16).";
            }),
        ];
    }

    /// <summary>The readers of a packed model.</summary>
    /// <param name="difference">The size of the difference of logits when it was opened anew, over the size of the logits.</param>
    public static IReadOnlyList<ReaderEntry> OfPacked(double difference)
    {
        const string first = "The weights are packed; make a dense checkpoint with espalier unpack";
        return
        [
            Proved(FormattableString.Invariant($"opened anew, logits differ from the source's by {difference:G3} of their size")),
            new(Transformers, ReaderVerdict.Converted, $"{first}."),
            new(LlamaCpp, ReaderVerdict.Converted, $"{first}, then espalier export --format gguf."),
            new(OnnxRuntime, ReaderVerdict.Converted, $"{first}, then espalier export --format onnx."),
        ];
    }

    /// <summary>The readers of a GGUF file.</summary>
    internal static IReadOnlyList<ReaderEntry> OfGguf(string architecture, ExportComparison comparison) =>
    [
        Proved(Compared(comparison)),
        new(Transformers, ReaderVerdict.No, "Give it the checkpoint that this file was made from."),
        new(LlamaCpp, ReaderVerdict.Loads, $"The architecture {architecture}; Espalier's tests load such files there."),
        new(OnnxRuntime, ReaderVerdict.No, "It reads ONNX only: espalier export --format onnx."),
    ];

    /// <summary>The readers of an ONNX file.</summary>
    internal static IReadOnlyList<ReaderEntry> OfOnnx(int opset, ExportComparison comparison) =>
    [
        Proved(Compared(comparison)),
        new(Transformers, ReaderVerdict.No, "Give it the checkpoint that this file was made from."),
        new(LlamaCpp, ReaderVerdict.No, "It reads GGUF only: espalier export --format gguf."),
        new(OnnxRuntime, ReaderVerdict.Loads, $"Standard operators of opset {opset}; Espalier's tests run such files there."),
    ];

    /// <summary>The readers of an ONNX file of a vision net.</summary>
    internal static IReadOnlyList<ReaderEntry> OfVisionOnnx(int opset, double error) =>
    [
        Proved(FormattableString.Invariant($"opened anew, outputs differ by {error:G3} of their size")),
        new(OnnxRuntime, ReaderVerdict.Loads, $"Standard operators of opset {opset}; Espalier's tests run such files there."),
    ];

    /// <summary>What transformers' classes make of the configuration, against what lies there.</summary>
    private static ReaderEntry OfTransformers(ModelConfig config, Checkpoint checkpoint)
    {
        if (config.Activation == Activations.FatReluName)
        {
            return new(Transformers, ReaderVerdict.No, $"It has no activation {Activations.FatReluName}; published ProSparse models bring code of their own for it.");
        }

        if (config.BlockShapes is not null)
        {
            return new(Transformers, ReaderVerdict.Converted, "Its classes make all blocks alike and these differ: espalier export --format checkpoint --pad fills them up with zeros.");
        }

        Architecture family = Architecture.For(config);
        bool named = checkpoint.Metadata.GetValueOrDefault("format") == "pt";
        try
        {
            // The classes of these families know no head_dim: they share the width out.
            ModelConfig stock = family.ReadsHeadWidth ? config : config.With("head_dim", null);
            Inventory.Require(family, stock, checkpoint);
        }
        catch (EspalierException) when (config.Fields.Has("head_dim") && !family.ReadsHeadWidth)
        {
            return new(Transformers, ReaderVerdict.Converted, $"{Classes[config.ModelType]} takes hidden width / heads for the width of a head, which is another here: espalier export --format checkpoint --pad.");
        }

        return named
            ? new(Transformers, ReaderVerdict.Loads, $"Keys of {ModelConfig.FileName}, names and shapes of all {checkpoint.Names.Count} tensors are those of {Classes[config.ModelType]}.")
            : new(Transformers, ReaderVerdict.No, "Its loader wants \"format\": \"pt\" in the head of every safetensors file, which is missing here.");
    }

    private static ReaderEntry Proved(string how) => new(Espalier, ReaderVerdict.Loads, $"{char.ToUpperInvariant(how[0])}{how[1..]}.");

    private static string Compared(ExportComparison c) => FormattableString.Invariant($"opened anew, logits differ by {c.RelativeError:G3} of their size");

    private static ReaderEntry Try(string reader, ModelConfig config, Func<string> export)
    {
        try
        {
            return new ReaderEntry(reader, ReaderVerdict.Converted, export());
        }
        catch (EspalierException refusal)
        {
            string reason = refusal.Message.Replace($"{config.Fields.Origin}: ", "", StringComparison.Ordinal);
            return new ReaderEntry(reader, ReaderVerdict.No, reason);
        }
    }
}
