using Espalier.Runtime;

namespace Espalier.Models.Vision;

/// <summary>
/// EDSR (Lim et al. 2017) for super-resolution, named as in EDSR-PyTorch: images in and finer images out. Fields: <c>scale</c> (2, 3 or 4; default 2),
/// <c>features</c> (default 64), <c>blocks</c> (default 16): the light "baseline". The <c>image_mean</c> is taken off inside and added again;
/// <c>rgb_range</c> (default 1) is what the weights take for white: 255 for those that the authors published.
/// </summary>
internal static class Edsr
{
    public static void Build(VisionGraph graph, VisionConfig config)
    {
        ConfigFields fields = config.Fields;
        int scale = config.Scale!.Value, features = fields.PositiveOr(64, "features"), blocks = fields.PositiveOr(16, "blocks");
        EspalierException.Require(scale is 2 or 3 or 4, $"{fields.Origin}: a scale of {scale} is not known; use 2, 3 or 4.");
        double range = fields.Number("rgb_range", 1);
        VisionLayer head = graph.Conv("head.0", graph.Shift(graph.Scale(graph.Input, range), [.. config.Mean.Select(m => -m * range)]), features, 3, padding: 1, bias: true);
        VisionLayer x = head;
        for (int i = 0; i < blocks; i++)
        {
            VisionLayer y = graph.Relu(graph.Conv($"body.{i}.body.0", x, features, 3, padding: 1, bias: true));
            x = graph.Add(graph.Conv($"body.{i}.body.2", y, features, 3, padding: 1, bias: true), x);
        }

        x = graph.Add(graph.Conv($"body.{blocks}", x, features, 3, padding: 1, bias: true), head);
        int factor = scale == 4 ? 2 : scale;
        for (int i = 0; i < (scale == 4 ? 2 : 1); i++)
        {
            x = graph.PixelShuffle(graph.Conv($"tail.0.{2 * i}", x, factor * factor * features, 3, padding: 1, bias: true), factor);
        }

        graph.Output(graph.Scale(graph.Shift(graph.Conv("tail.1", x, config.Channels, 3, padding: 1, bias: true), [.. config.Mean.Select(m => m * range)]), 1 / range));
    }
}
