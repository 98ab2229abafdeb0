using System.Text.Json;
using System.Text.Json.Nodes;
using Espalier.Runtime;

namespace Espalier.Models.Vision;

/// <summary>
/// VGG (Simonyan and Zisserman 2015) with torchvision's names (<c>features.0</c>, …); batch norm as in vgg16_bn. Fields: <c>layers</c>,
/// widths and "M" for a pool (default VGG-16's); <c>batch_norm</c> (default true); <c>head</c>: <c>imagenet</c> (mean pool to 7×7, then 4096, 4096,
/// classes; default), <c>flatten</c> (the map as it is, then <c>hidden</c>, default none) or <c>mean</c> (the mean over the map, then the same). With
/// <c>flatten</c> and <c>mean</c> the linear maps are <c>classifier.0, 2, 4</c>, or <c>classifier</c> where there is one: the usual head on CIFAR.
/// </summary>
/// <remarks>Dropout of the original head is left out.</remarks>
internal static class Vgg
{
    private const string Pool = "M";
    private static readonly JsonNode?[] sixteen = [64, 64, Pool, 128, 128, Pool, 256, 256, 256, Pool, 512, 512, 512, Pool, 512, 512, 512, Pool];

    public static void Build(VisionGraph graph, VisionConfig config)
    {
        ConfigFields fields = config.Fields;
        bool norm = fields.Flag("batch_norm", true);
        VisionLayer x = graph.Input;
        int index = 0;
        foreach (JsonNode? item in fields.List("layers") ?? sixteen)
        {
            if (item is JsonValue word && word.TryGetValue(out string? text) && text == Pool)
            {
                x = graph.MaxPool(x, 2, 2);
                index++;
                continue;
            }

            double channels = item is JsonValue value && value.GetValueKind() is JsonValueKind.Number ? value.Deserialize<double>() : 0;
            EspalierException.Require(channels is >= 1 and <= 65536 && channels == Math.Floor(channels),
                $"{fields.Origin}: 'layers' holds {item?.ToJsonString() ?? "null"}; it may hold numbers of channels and \"{Pool}\" for a pool.");
            x = graph.Conv($"features.{index}", x, (long)channels, 3, padding: 1, bias: true);
            x = graph.Relu(norm ? graph.BatchNorm($"features.{index + 1}", x) : x);
            index += norm ? 3 : 2;
        }

        Head(graph, config, x);
    }

    private static void Head(VisionGraph graph, VisionConfig config, VisionLayer x)
    {
        string head = config.Fields.Text("head", "imagenet");
        EspalierException.Require(head is "imagenet" or "flatten" or "mean", $"{config.Fields.Origin}: 'head' is '{head}', but must be imagenet, flatten or mean.");
        x = head switch
        {
            "mean" => graph.GlobalMean(x),
            "flatten" => graph.Flatten(x),
            _ => graph.Flatten(graph.MeanPool(x, 7)),
        };
        IReadOnlyList<int> hidden = head == "imagenet" ? [4096, 4096] : config.Fields.WholeOrList("hidden");
        int step = head == "imagenet" ? 3 : 2; // torchvision's dropouts take a number each
        for (int i = 0; i < hidden.Count; i++)
        {
            x = graph.Relu(graph.Linear($"classifier.{i * step}", x, hidden[i]));
        }

        graph.Output(graph.Linear(hidden.Count == 0 ? "classifier" : $"classifier.{hidden.Count * step}", x, config.Classes));
    }
}
