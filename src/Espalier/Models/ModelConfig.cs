using System.Text.Json;
using System.Text.Json.Nodes;
using Espalier.Runtime;

namespace Espalier.Models;

/// <summary>The shape of one decoder block; structured pruning gives blocks shapes of their own.</summary>
/// <param name="Heads">Query heads.</param>
/// <param name="KeyValueHeads">Key and value heads; each serves Heads / KeyValueHeads query heads.</param>
/// <param name="Neurons">The width of the feed-forward part.</param>
public sealed record BlockShape(int Heads, int KeyValueHeads, int Neurons);

/// <summary>
/// A language model's config.json: the fields that every family has under one name, and the whole file, so that keys
/// nobody here knows survive rewriting. Immutable; checked when read.
/// </summary>
public sealed record ModelConfig
{
    /// <summary>The name of the file in a checkpoint folder.</summary>
    public const string FileName = "config.json";

    /// <summary>The family ("llama", "opt"): <c>model_type</c>.</summary>
    public required string ModelType { get; init; }

    /// <summary>The width of the residual stream, H.</summary>
    public required int HiddenSize { get; init; }

    /// <summary>The width of the feed-forward part, F.</summary>
    public required int IntermediateSize { get; init; }

    /// <summary>The number of decoder blocks.</summary>
    public required int LayerCount { get; init; }

    /// <summary>Query heads per block.</summary>
    public required int HeadCount { get; init; }

    /// <summary>Key and value heads per block.</summary>
    public required int KeyValueHeadCount { get; init; }

    /// <summary>The width of one head.</summary>
    public required int HeadDim { get; init; }

    /// <summary>The number of token ids, V.</summary>
    public required int VocabSize { get; init; }

    /// <summary>The longest context in tokens.</summary>
    public required int MaxPositions { get; init; }

    /// <summary>The ε of the norms.</summary>
    public required double NormEpsilon { get; init; }

    /// <summary>The activation function's name.</summary>
    public required string Activation { get; init; }

    /// <summary>The threshold of <c>fatrelu</c> (<c>hidden_act_param</c>, as in published ProSparse models); 0 for every other function.</summary>
    public double ActivationThreshold { get; private init; }

    /// <summary>Whether the language-model head is the token table itself.</summary>
    public required bool TieWordEmbeddings { get; init; }

    /// <summary>Rotary positions; null in families with learned ones.</summary>
    public RopeSettings? Rope { get; init; }

    /// <summary>The standard deviation of freshly drawn weights.</summary>
    public double InitializerRange { get; init; } = 0.02;

    /// <summary>The token that begins a text, if there is one.</summary>
    public int? BosTokenId { get; init; }

    /// <summary>The tokens that end a text; may be empty.</summary>
    public IReadOnlyList<int> EosTokenIds { get; init; } = [];

    /// <summary>The shapes of the blocks where structured pruning made them differ (<c>block_shapes</c>); null where all are alike.</summary>
    public IReadOnlyList<BlockShape>? BlockShapes { get; init; }

    /// <summary>What stands before the tensor names of the model's body ("model."); checkpoints of one family differ in it.</summary>
    public required string TensorPrefix { get; init; }

    /// <summary>Every field by its own name, for what only one family has.</summary>
    public required ConfigFields Fields { get; init; }

    /// <summary>A copy of the whole file.</summary>
    public JsonObject Json => (JsonObject)Fields.Json.DeepClone();

    /// <summary>The shape of one block.</summary>
    public BlockShape ShapeOf(int index) => BlockShapes?[index] ?? new BlockShape(HeadCount, KeyValueHeadCount, IntermediateSize);

    /// <summary>Reads <c>config.json</c> of a checkpoint folder.</summary>
    /// <exception cref="EspalierException">When it is missing, is no JSON, names an unknown family, or a field is missing, negative or contradicts another.</exception>
    public static ModelConfig Load(string folder)
    {
        string path = Path.Combine(folder, FileName);
        EspalierException.Require(Directory.Exists(folder), $"There is no folder {folder}; give the folder of a checkpoint, with {FileName} and safetensors files in it.");
        EspalierException.Require(File.Exists(path), $"{folder} has no {FileName}; give the folder of a checkpoint in Hugging Face's layout.");
        return Parse(File.ReadAllText(path), path);
    }

    /// <summary>Reads the text of a config.json.</summary>
    /// <param name="text">The text.</param>
    /// <param name="origin">Where it came from, for the error sentences.</param>
    /// <exception cref="EspalierException">As <see cref="Load"/>.</exception>
    public static ModelConfig Parse(string text, string origin = FileName)
    {
        return From(ConfigFields.Parse(text, origin, "a model's configuration"));
    }

    /// <summary>The same configuration with one field changed, checked again.</summary>
    /// <param name="name">The field's name in config.json.</param>
    /// <param name="value">Its new value; null removes it.</param>
    public ModelConfig With(string name, JsonNode? value) => With([(name, value)]);

    /// <summary>The same configuration with several fields changed at once, checked again.</summary>
    /// <param name="changes">Names in config.json and their new values; null removes a field.</param>
    public ModelConfig With(IEnumerable<(string Name, JsonNode? Value)> changes)
    {
        JsonObject changed = Json;
        foreach ((string name, JsonNode? value) in changes)
        {
            changed.Remove(name);
            if (value is not null)
            {
                changed[name] = value.DeepClone();
            }
        }

        return Again(changed);
    }

    /// <summary>The same configuration with another activation function in every feed-forward part.</summary>
    /// <param name="name">Its name ("relu").</param>
    /// <param name="threshold">The threshold of <c>fatrelu</c>, above 0; 0 for every other function.</param>
    /// <exception cref="EspalierException">For a name that is not known, or a threshold that does not belong to it.</exception>
    public ModelConfig WithActivation(string name, double threshold = 0)
    {
        EspalierException.Require(name == Activations.FatReluName ? threshold > 0 && double.IsFinite(threshold) : threshold == 0,
            FormattableString.Invariant($"The activation '{name}' with a threshold of {threshold} is not possible; only {Activations.FatReluName} has a threshold, and it is above 0."));
        JsonObject changed = Json;
        changed[Architecture.For(this).ActivationField] = name;
        changed.Remove(ThresholdField);
        if (threshold > 0)
        {
            changed[ThresholdField] = threshold;
        }

        return Again(changed);
    }

    /// <summary>The text of config.json, unknown keys included.</summary>
    public string ToJsonText() => Fields.Json.ToJsonString(new JsonSerializerOptions { WriteIndented = true }) + "\n";

    // As text and back: a value set in memory is of another kind than one that was read.
    private ModelConfig Again(JsonObject changed) => Parse(changed.ToJsonString(), Fields.Origin) with { TensorPrefix = TensorPrefix };

    private const int MostLayers = 10_000;
    private const string ThresholdField = "hidden_act_param";

    private static ModelConfig From(ConfigFields fields)
    {
        string origin = fields.Origin;
        string type = fields.Text("model_type", "");
        EspalierException.Require(type.Length > 0, $"{origin} has no 'model_type'; known are {string.Join(", ", Architecture.Known)}.");
        ModelConfig config = Architecture.Named(type, origin).ReadConfig(fields);
        config = config with { BlockShapes = ReadBlockShapes(fields, config), ActivationThreshold = ReadThreshold(fields, config) };
        config.Check();
        return config;
    }

    // Other functions may carry the field too (MiniCPM writes it beside SiLU); it means nothing to them.
    private static double ReadThreshold(ConfigFields fields, ModelConfig config)
    {
        if (config.Activation != Activations.FatReluName)
        {
            return 0;
        }

        EspalierException.Require(fields.Has(ThresholdField), $"{fields.Origin} names the activation {Activations.FatReluName} but no threshold; write it as '{ThresholdField}', for example 0.01.");
        return fields.Number(ThresholdField, 0);
    }

    private static List<BlockShape>? ReadBlockShapes(ConfigFields fields, ModelConfig config)
    {
        if (fields.List("block_shapes") is not { } items)
        {
            return null;
        }

        EspalierException.Require(items.Count == config.LayerCount, $"{fields.Origin}: 'block_shapes' has {items.Count} entries for {config.LayerCount} blocks; it needs one for each.");
        return [.. items.Select((item, i) =>
        {
            EspalierException.Require(item is JsonObject, $"{fields.Origin}: entry {i} of 'block_shapes' is no object.");
            var shape = new ConfigFields((JsonObject)item, $"{fields.Origin}, block_shapes[{i}]");
            int heads = shape.PositiveOr(config.HeadCount, "num_attention_heads");
            return new BlockShape(heads, shape.PositiveOr(Math.Min(heads, config.KeyValueHeadCount), "num_key_value_heads"), shape.PositiveOr(config.IntermediateSize, "intermediate_size"));
        })];
    }

    private void Check()
    {
        EspalierException.Require(LayerCount <= MostLayers, $"{Fields.Origin} speaks of {LayerCount} blocks, more than the {MostLayers} that any model has; the file is damaged.");
        EspalierException.Require((long)HeadCount * HeadDim <= ConfigFields.LargestSize, $"{Fields.Origin} speaks of {HeadCount} heads of {HeadDim}, more than any model has; the file is damaged.");
        for (int i = 0; i < LayerCount; i++)
        {
            BlockShape shape = ShapeOf(i);
            EspalierException.Require(shape.KeyValueHeads <= shape.Heads && shape.Heads % shape.KeyValueHeads == 0,
                $"{Fields.Origin}: {shape.Heads} attention heads cannot be shared out among {shape.KeyValueHeads} key-value heads; the first must be a multiple of the second.");
        }
    }
}
