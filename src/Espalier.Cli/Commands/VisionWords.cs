using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Espalier.Checkpoints;
using Espalier.Cli.Display;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Quantization;
using Espalier.Models.Vision;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary>What several commands do with vision nets.</summary>
internal static class VisionWords
{
    /// <summary>What <c>--data</c> options say of images.</summary>
    public const string DataForms = "parquet files, idx files, a folder for each class, or a hub id as ID:SPLIT";

    /// <summary>Decoded images, with as many channels as the net takes.</summary>
    public static ImageTensors Images(string reference, VisionConfig config, int? limit, CommandContext context, CancellationToken cancellation)
    {
        ImageTensors images = ImageTensors.Load(
            ImageDataset.Open(DataReference.Parse(reference), id => Hub.ResolveDataset(id, context.Progress, cancellation: cancellation)), config.Channels, limit, context.Progress, cancellation);
        images.RequireClasses(config.Classes);
        return images;
    }

    /// <summary>The accuracy of a net on images, as the fields of the result.</summary>
    public static JsonObject Evaluate(string word, string folder, string reference, int? limit, CommandContext context, CancellationToken cancellation)
    {
        using VisionModel model = VisionModel.Load(folder, context.Device);
        using QuantisedNet? rounded = QuantisedNet.Attach(model, folder);
        using ImageTensors images = Images(reference, model.Config, limit, context, cancellation);
        var clock = Stopwatch.StartNew();
        ImageAccuracyResult result = ImageAccuracy.Evaluate(model, images, progress: context.Progress, cancellation: cancellation);
        return JsonSerializer.SerializeToNode(
            new { model = word, data = reference, accuracy = result.Top1, result.StandardError, result.Loss, result.Images, seconds = clock.Elapsed.TotalSeconds },
            JsonEvents.Options)!.AsObject();
    }

    /// <summary>Shows what <see cref="Evaluate"/> found.</summary>
    public static void Print(CommandContext context, JsonObject result)
    {
        double seconds = (double)result["seconds"]!;
        int images = (int)result["images"]!;
        context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"accuracy {(double)result["accuracy"]!:0.00} % ± {(double)result["standardError"]!:0.00} on {Text.Count(images)} images, loss {(double)result["loss"]!:0.####}"));
        context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Text.Duration(TimeSpan.FromSeconds(seconds))}, {images / seconds:0} images/s"));
    }
}
