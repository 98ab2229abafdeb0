using System.Text.Json;
using System.Text.Json.Nodes;
using Espalier.Runtime;

namespace Espalier.Models.Vision;

/// <summary>What config.json says of a vision net. Fields of one family are read by that family; unknown ones are kept.</summary>
public sealed record VisionConfig
{
    private const int LargestImage = 1 << 16;
    private const string WidthsField = "widths", MapsField = "channel_maps", GatesField = "gates";

    /// <summary>The family ("cifar_resnet").</summary>
    public required string ModelType { get; init; }

    /// <summary>Classes that are told apart; a net that puts out images has none, and 1 stands here. Field num_classes, default 10.</summary>
    public required int Classes { get; init; }

    /// <summary>How many times finer the images are that the net puts out (super-resolution); null for a net that tells classes apart. Field scale, default 2.</summary>
    public int? Scale { get; init; }

    /// <summary>Channels of an image. Field num_channels, default 3.</summary>
    public required int Channels { get; init; }

    /// <summary>Height and width of an image. Field image_size; the default is the family's.</summary>
    public required int ImageSize { get; init; }

    /// <summary>Subtracted from pixels in [0, 1], channel by channel. Field image_mean, default 0.</summary>
    public required IReadOnlyList<double> Mean { get; init; }

    /// <summary>What pixels are then divided by. Field image_std, default 1.</summary>
    public required IReadOnlyList<double> Deviation { get; init; }

    /// <summary>The outputs of layers that were cut, by layer name. Field widths.</summary>
    public required IReadOnlyDictionary<string, int> Widths { get; init; }

    /// <summary>Where the channels of shortcuts without weights come from in a net that was cut, by shortcut. Field channel_maps.</summary>
    public required IReadOnlyDictionary<string, IReadOnlyList<int>> Maps { get; init; }

    /// <summary>The net's gates; null where it has none. Field gates.</summary>
    public GateConfig? Gates { get; init; }

    /// <summary>All fields, for the family's own.</summary>
    internal ConfigFields Fields { get; private init; } = null!;

    /// <summary>Whether a folder's config.json is that of a vision net.</summary>
    public static bool IsVision(string folder) => File.Exists(Path.Combine(folder, ModelConfig.FileName)) && IsVisionFile(Path.Combine(folder, ModelConfig.FileName));

    /// <summary>Whether a configuration file is that of a vision net.</summary>
    public static bool IsVisionFile(string path)
    {
        try
        {
            return JsonNode.Parse(File.ReadAllText(path))?["model_type"]?.GetValue<string>() is { } type && VisionFamily.Known.Contains(type);
        }
        catch (Exception fault) when (fault is JsonException or InvalidOperationException or ArgumentException)
        {
            return false;
        }
    }

    /// <summary>Reads a folder's config.json.</summary>
    /// <exception cref="EspalierException">When it is missing, damaged, or no vision net's.</exception>
    public static VisionConfig Load(string folder)
    {
        string path = Path.Combine(folder, ModelConfig.FileName);
        EspalierException.Require(File.Exists(path), $"{folder} has no {ModelConfig.FileName}; give the folder of a vision net.");
        return Parse(File.ReadAllText(path), path);
    }

    /// <summary>Reads the text of a config.json.</summary>
    /// <param name="text">The text.</param>
    /// <param name="origin">Where it came from, for the error sentences.</param>
    /// <exception cref="EspalierException">As <see cref="Load"/>.</exception>
    public static VisionConfig Parse(string text, string origin = ModelConfig.FileName)
    {
        ConfigFields fields = ConfigFields.Parse(text, origin, "a net's configuration");
        VisionFamily family = VisionFamily.Named(fields.Text("model_type", ""), origin);
        int channels = fields.PositiveOr(3, "num_channels"), side = fields.PositiveOr(family.ImageSize, "image_size");
        EspalierException.Require(channels <= LargestImage && side <= LargestImage, $"{origin} speaks of images of {side} pixels and {channels} channels; both can be at most {LargestImage}.");
        return new VisionConfig
        {
            ModelType = family.Name,
            Classes = fields.PositiveOr(10, "num_classes"),
            Scale = family.Refines ? fields.PositiveOr(2, "scale") : null,
            Channels = channels,
            ImageSize = side,
            Mean = Numbers(fields, "image_mean", channels, 0),
            Deviation = Numbers(fields, "image_std", channels, 1),
            Widths = ReadWidths(fields),
            Maps = ReadMaps(fields),
            Gates = GateConfig.Read(fields),
            Fields = fields,
        };
    }

    /// <summary>Stops what needs classes on a net for super-resolution.</summary>
    /// <param name="what">What needs them, as the start of a sentence.</param>
    /// <exception cref="EspalierException">When the net puts out images.</exception>
    public void RequireClassifier(string what) => EspalierException.Require(Scale is null,
        $"{what} needs a net that tells classes apart, and {ModelType} puts out finer images; it is trained with `espalier train` (--sparse-training too) and measured with `espalier eval`.");

    /// <summary>The text of config.json, unknown fields included.</summary>
    public string ToJsonText() => Fields.Json.ToJsonString(new JsonSerializerOptions { WriteIndented = true }) + "\n";

    /// <summary>The configuration of a net with other widths.</summary>
    internal VisionConfig WithCut(IReadOnlyDictionary<string, int> widths, IReadOnlyDictionary<string, IReadOnlyList<int>> maps) =>
        With((WidthsField, JsonSerializer.SerializeToNode(widths)), (MapsField, JsonSerializer.SerializeToNode(maps)));

    /// <summary>The configuration of a net with gates, or without them.</summary>
    internal VisionConfig WithGates(GateConfig? gates) => With((GatesField, gates?.ToJson()));

    private VisionConfig With(params (string Name, JsonNode? Value)[] fields)
    {
        JsonObject changed = (JsonObject)Fields.Json.DeepClone();
        foreach ((string name, JsonNode? value) in fields)
        {
            changed.Remove(name);
            if (value is not null)
            {
                changed[name] = value;
            }
        }

        return Parse(changed.ToJsonString(), Fields.Origin);
    }

    internal int WidthOf(string layer, long standard) => Widths.TryGetValue(layer, out int width) ? width : (int)standard;

    internal IReadOnlyList<int>? MapOf(string shortcut) => Maps.GetValueOrDefault(shortcut);

    private static IReadOnlyList<double> Numbers(ConfigFields fields, string name, int channels, double standard)
    {
        if (fields.List(name) is not { } items)
        {
            return [.. Enumerable.Repeat(standard, channels)];
        }

        double[] numbers = [.. items.Select(i => i is JsonValue v && v.GetValueKind() is JsonValueKind.Number ? v.Deserialize<double>() : double.NaN)];
        EspalierException.Require(numbers.Length == channels && numbers.All(double.IsFinite) && (standard == 0 || numbers.All(n => n > 0)),
            $"{fields.Origin}: '{name}' must hold one {(standard == 0 ? "" : "positive ")}number for each of the {channels} channels of an image.");
        return numbers;
    }

    private static Dictionary<string, int> ReadWidths(ConfigFields fields) => fields.Section(WidthsField) is { } section
        ? section.Json.ToDictionary(f => f.Key, f => section.Positive(f.Key))
        : [];

    private static Dictionary<string, IReadOnlyList<int>> ReadMaps(ConfigFields fields) => fields.Section(MapsField) is { } section
        ? section.Json.ToDictionary(f => f.Key, f => section.WholeOrList(f.Key))
        : [];
}
