using System.Text.Json.Nodes;
using Espalier.Runtime;

namespace Espalier.Models.Vision;

/// <summary>
/// What config.json says of a net's gates: after a convolution with batch norm a <see cref="GateLayer"/> chooses, image by image, the filters whose
/// output counts. Field gates.
/// </summary>
public sealed record GateConfig
{
    /// <summary>The convolutions that are gated, by name. Field layers.</summary>
    public required IReadOnlyList<string> Layers { get; init; }

    /// <summary>Whether predictors read the softmax of the pooled input. Field softmax, default true.</summary>
    public bool Softmax { get; init; } = true;

    /// <summary>About how many numbers a predictor reads: its input is pooled to d×d places, d = round(√(size / channels)); null (default) pools to one. Field embedding.</summary>
    public int? Embedding { get; init; }

    /// <summary>Whether a gate that would close every filter leaves the one with the largest logit open. Field keep_top, default false.</summary>
    public bool KeepTop { get; init; }

    /// <summary>The side d of the grid that a predictor's input is pooled to.</summary>
    /// <param name="channels">The channels of the input.</param>
    public int Side(long channels) => Embedding is { } size ? Math.Max(1, (int)Math.Round(Math.Sqrt((double)size / channels))) : 1;

    internal static GateConfig? Read(ConfigFields fields)
    {
        if (fields.Section("gates") is not { } section)
        {
            return null;
        }

        string[] layers = [.. (section.List("layers") ?? []).Select(item => item?.GetValueKind() is System.Text.Json.JsonValueKind.String
            ? item.GetValue<string>()
            : throw new EspalierException($"{section.Origin}: 'layers' holds {item?.ToJsonString() ?? "null"}; it may hold names of convolutions."))];
        return new GateConfig { Layers = layers, Softmax = section.Flag("softmax", true), Embedding = section.Optional("embedding"), KeepTop = section.Flag("keep_top", false) };
    }

    internal JsonObject ToJson() => new()
    {
        ["layers"] = new JsonArray([.. Layers.Select(l => (JsonNode?)l)]),
        ["softmax"] = Softmax,
        ["embedding"] = Embedding,
        ["keep_top"] = KeepTop,
    };
}
