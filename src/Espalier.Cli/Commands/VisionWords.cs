using System.CommandLine;
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

    /// <summary>Where images with or without classes come from, for help texts.</summary>
    public const string AnyDataForms = DataForms + "; for super-resolution a folder of images";

    private const int DeadImages = 1000;

    /// <summary>The option of commands that train on images.</summary>
    public static Option<string> AugmentOption() => new Option<string>("--augment")
    {
        Description = "Vision nets: how images are changed by chance; cifar pads by 4 pixels, crops and flips; flip mirrors every second image.",
        HelpName = "word",
        DefaultValueFactory = _ => "none",
    }.AcceptOnlyFromAmong("none", "cifar", "flip");

    /// <summary>What the word of <see cref="AugmentOption"/> means.</summary>
    public static ImageAugmentation Augmentation(string? word) => word switch
    {
        "cifar" => ImageAugmentation.Cifar,
        "flip" => ImageAugmentation.None with { Flip = true },
        _ => ImageAugmentation.None,
    };

    /// <summary>Decoded images, with as many channels as the net takes; of a net for super-resolution the originals, cut to squares of the size that it puts out.</summary>
    public static ImageTensors Images(string reference, VisionConfig config, int? limit, CommandContext context, CancellationToken cancellation)
    {
        if (config.Scale is { } scale)
        {
            return Originals.Tiles(OpenOriginals(reference, context, cancellation), config.Channels, config.ImageSize * scale, limit, context.Progress, cancellation);
        }

        ImageTensors images = ImageTensors.Load(
            ImageDataset.Open(DataReference.Parse(reference), id => Hub.ResolveDataset(id, context.Progress, cancellation: cancellation)), config.Channels, limit, context.Progress, cancellation);
        images.RequireClasses(config.Classes);
        return images;
    }

    /// <summary>The accuracy of a net on images, or how near a net for super-resolution comes to originals, as the fields of the result.</summary>
    public static JsonObject Evaluate(string word, string folder, string reference, int? limit, CommandContext context, CancellationToken cancellation, IReadOnlyList<(string Folder, double Weight)>? adapters = null)
    {
        using AdaptedNet<VisionModel> adapted = AdapterWords.LoadVision(folder, adapters ?? [], context);
        VisionModel model = adapted.Net;
        using QuantisedNet? rounded = QuantisedNet.Attach(model, folder);
        if (model.Config.Scale is { } scale)
        {
            return EvaluateFiner(word, model, scale, reference, limit, context, cancellation);
        }

        using ImageTensors images = Images(reference, model.Config, limit, context, cancellation);
        using GateMeter? meter = model.Gates.Count == 0 ? null : new GateMeter(model);
        var clock = Stopwatch.StartNew();
        ImageAccuracyResult result = ImageAccuracy.Evaluate(model, images, progress: context.Progress, cancellation: cancellation, forward: meter is null ? null : meter.Forward);
        TimeSpan time = clock.Elapsed;
        return JsonSerializer.SerializeToNode(
            new
            {
                model = word,
                data = reference,
                accuracy = result.Top1,
                result.StandardError,
                result.Loss,
                result.Images,
                seconds = time.TotalSeconds,
                deadNeurons = Dead(model, images),
                gates = meter is null ? null : Gates(meter.Work, SkippingSpeed.Measure(model, images)),
            },
            JsonEvents.Options)!.AsObject();
    }

    private static ImageDataset OpenOriginals(string reference, CommandContext context, CancellationToken cancellation) =>
        Originals.Open(DataReference.Parse(reference), id => Hub.ResolveDataset(id, context.Progress, cancellation: cancellation));

    private static JsonObject EvaluateFiner(string word, VisionModel model, int scale, string reference, int? limit, CommandContext context, CancellationToken cancellation)
    {
        EspalierException.Require(limit is null or > 0, $"A limit of {limit} images is not possible; take at least 1.");
        ImageDataset dataset = OpenOriginals(reference, context, cancellation);
        var clock = Stopwatch.StartNew();
        SuperResolutionQuality net = Measure("measuring", originals => SuperResolutionQuality.Measure(model.Forward, originals, scale, model.Device));
        TimeSpan time = clock.Elapsed;
        SuperResolutionQuality bicubic = Measure("measuring bicubic", originals => SuperResolutionQuality.Bicubic(originals, scale));
        return JsonSerializer.SerializeToNode(
            new
            {
                model = word,
                data = reference,
                scale,
                net.Psnr,
                net.StandardError,
                net.Ssim,
                net.Images,
                seconds = time.TotalSeconds,
                bicubic = new { bicubic.Psnr, bicubic.Ssim },
            },
            JsonEvents.Options)!.AsObject();

        SuperResolutionQuality Measure(string title, Func<IEnumerable<TorchSharp.torch.Tensor>, SuperResolutionQuality> measure)
        {
            using IProgressTask task = context.Progress.Begin(title, Math.Min(dataset.Count, limit ?? long.MaxValue), "image");
            return measure(
                Originals.Whole(dataset, model.Config.Channels, scale, limit).Select(image =>
                {
                    cancellation.ThrowIfCancellationRequested();
                    task.Advance(1);
                    return image;
                }));
        }
    }

    // Counting slows the net down, so it has a pass of its own over a few images.
    private static object? Dead(VisionModel model, ImageTensors images)
    {
        if (!model.Layers.Any(l => l is PlainLayer { Kind: PlainKind.Relu }))
        {
            return null;
        }

        int count = Math.Min(images.Count, DeadImages);
        var batches = new ImageBatches(images, DeadImages / 4) { Mean = model.Config.Mean, Deviation = model.Config.Deviation };
        IReadOnlyList<DeadNeuronRate> rates = DeadNeurons.Measure(model, batches.InOrder(count, model.Device).Select(b =>
        {
            b.Labels.Dispose();
            return b.Images;
        }));
        return new { images = count, rates[^1].Total, rates[^1].Static, rates[^1].Dynamic, layers = rates.SkipLast(1).ToDictionary(r => r.Layer, r => r.Total) };
    }

    private static object Gates(GateWork work, SkippingSpeed speed) => new
    {
        macs = work.Macs,
        work.Least,
        work.Most,
        work.Dense,
        work.Predictors,
        saving = work.Reduction,
        savingWithPredictors = work.NetReduction,
        open = work.Open,
        denseMilliseconds = speed.Dense,
        skippingMilliseconds = speed.Skipping,
    };

    /// <summary>Shows what <see cref="Evaluate"/> found.</summary>
    public static void Print(CommandContext context, JsonObject result)
    {
        double seconds = (double)result["seconds"]!;
        int images = (int)result["images"]!;
        if (result["psnr"] is { } psnr)
        {
            context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"PSNR {Number(psnr):0.00} dB{(images > 1 ? FormattableString.Invariant($" ± {Number(result["standardError"]!):0.00}") : "")}, SSIM {Number(result["ssim"]!):0.0000} on {Text.Count(images)} images made {(int)result["scale"]!} times finer"));
            context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"bicubic: {Number(result["bicubic"]!["psnr"]!):0.00} dB, {Number(result["bicubic"]!["ssim"]!):0.0000}"));
            context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Text.Duration(TimeSpan.FromSeconds(seconds))}, {images / seconds:0.0} images/s"));
            return;
        }

        context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"accuracy {(double)result["accuracy"]!:0.00} % ± {(double)result["standardError"]!:0.00} on {Text.Count(images)} images, loss {(double)result["loss"]!:0.####}"));
        context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Text.Duration(TimeSpan.FromSeconds(seconds))}, {images / seconds:0} images/s"));
        if (result["deadNeurons"] is { } dead)
        {
            context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{(double)dead["total"]!:0.0} % of all ReLU outputs are zero on {Text.Count((int)dead["images"]!)} images, {(double)dead["static"]!:0.0} % because pruning left the unit no weight"));
        }

        if (result["gates"] is { } gates)
        {
            context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"gates: {(double)gates["macs"]!:N0} multiply-accumulates an image ({(double)gates["least"]!:N0} to {(double)gates["most"]!:N0}), {(double)gates["saving"]!:0.0} % less than {(long)gates["dense"]!:N0}; predictors take {(long)gates["predictors"]!:N0} on top"));
            context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"one image alone: {(double)gates["skippingMilliseconds"]!:0.##} ms with closed filters skipped, {(double)gates["denseMilliseconds"]!:0.##} ms without gates"));
        }
    }

    // What is no number stands as a word.
    internal static double Number(JsonNode value) => value.GetValueKind() is JsonValueKind.String ? double.Parse(value.GetValue<string>(), CultureInfo.InvariantCulture) : value.GetValue<double>();
}
