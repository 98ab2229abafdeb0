using System.CommandLine;
using System.Globalization;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Pruning;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier complexity</c>: how redundant the layers of a vision net are, and the net with close channels merged.</summary>
internal sealed class ComplexityCommand : EspalierCommand
{
    private readonly Argument<string> _model = new("MODEL") { Description = "A vision net's folder or a hub id." };
    private readonly Option<string> _method = new("--method") { Description = "The method, ifm, or a YAML file with it and its options.", HelpName = "NAME|file", DefaultValueFactory = _ => "ifm" };
    private readonly Option<string[]> _set = new("--set") { Description = "An option as NAME=VALUE: beta=0.2, max_ratio=0.5, batch_norm=fold, layers=layer3; may be given several times.", HelpName = "NAME=VALUE" };
    private readonly Option<double?> _share = new("--share") { Description = "Looks for the smallest beta that leaves at most this share of the parameters.", HelpName = "share" };
    private readonly Option<string?> _curve = new("--curve") { Description = "Also merges at these values of beta, with commas between.", HelpName = "betas" };
    private readonly Option<string?> _data = new("--data") { Description = $"Images to measure accuracy on, before and after: {VisionWords.DataForms}.", HelpName = "data" };
    private readonly Option<int?> _limit = new("--limit") { Description = "Only the first N images.", HelpName = "N" };
    private readonly Option<string?> _out = new("--out", "-o") { Description = "Writes the merged net to this folder.", HelpName = "folder" };

    public ComplexityCommand()
        : base("complexity", "Merges channels of a vision net that do nearly the same, without data: shows each layer's feature complexity and, where wanted, writes the narrower net.",
            "espalier complexity ./vgg16",
            "espalier complexity ./vgg16 --set beta=0.3 --data uoft-cs/cifar10:test --out ./vgg16-merged",
            "espalier complexity akamaster/cifar10-resnet20 --set layers=layer2,layer3 --curve 0.1,0.2,0.3,0.4 --data uoft-cs/cifar10:test --limit 2000",
            "espalier complexity ./vgg16 --share 0.5 --out ./vgg16-half")
    {
        Add(_model);
        foreach (Option option in new Option[] { _method, _set, _share, _curve, _data, _limit, _out })
        {
            Add(option);
        }

        KeepRuns();
    }

    private sealed record Point(double Beta, long Parameters, long Macs, double? Accuracy);

    /// <inheritdoc/>
    internal override void Check(ParseResult parsed) => Methods(parsed);

    private (Ifm Method, Ifm[] Others) Methods(ParseResult parsed)
    {
        Ifm method = PlanWords.Method<Ifm>(parsed.GetRequiredValue(_method), parsed.GetValue(_set) ?? []);
        double[] betas = [.. (parsed.GetValue(_curve) ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).Select(Number)];
        return (method, [.. betas.Select(b => method with { Beta = b })]);
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        (Ifm method, Ifm[] others) = Methods(parsed);
        string folder = await Inputs.ModelAsync(parsed.GetRequiredValue(_model), context, cancellation).ConfigureAwait(false);
        EspalierException.Require(VisionConfig.IsVision(folder), $"{parsed.GetRequiredValue(_model)} is no vision net; channels are merged in convolutional nets with ReLU.");
        using VisionModel net = VisionModel.Load(folder, context.Device);
        using ImageTensors? images = parsed.GetValue(_data) is { } data ? VisionWords.Images(data, net.Config, parsed.GetValue(_limit), context, cancellation) : null;
        using IfmResult merged = parsed.GetValue(_share) is { } share ? method.MergeTo(net, share, cancellation) : method.Merge(net, cancellation);
        Point before = Measure(net, 0), after = Measure(merged.Net, merged.Beta);
        Point[] curve = [.. others.Select(other =>
        {
            using IfmResult at = other.Merge(net, cancellation);
            return Measure(at.Net, other.Beta);
        })];
        string? output = parsed.GetValue(_out);
        if (output is not null)
        {
            merged.Net.Save(Path.GetFullPath(output));
        }

        context.Show(new { model = parsed.GetRequiredValue(_model), beta = merged.Beta, layers = merged.Layers, before, after, curve, folder = output }, () =>
        {
            int width = merged.Layers.Max(l => l.Layer.Length);
            foreach (LayerComplexity l in merged.Layers)
            {
                context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{l.Layer.PadRight(width)}  {l.Left,5} of {l.Original,5}  {100 * l.Complexity,6:0.0} %  largest group {l.LargestGroup,4}  closest left {l.SmallestRatio:0.###}"));
            }

            foreach ((string name, Point p) in new[] { ("before", before) }.Append(("after", after)).Concat(curve.Select(p => ("curve", p))))
            {
                string accuracy = p.Accuracy is { } a ? string.Create(CultureInfo.InvariantCulture, $", accuracy {a:0.00} %") : "";
                context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name,-6} beta {p.Beta:0.####}: {Text.Count(p.Parameters)} parameters, {Text.Count(p.Macs)} multiply-accumulates{accuracy}"));
            }

            if (output is not null)
            {
                context.Output.WriteLine($"written to {output}");
            }
        });
        return ExitCode.Success;

        Point Measure(VisionModel some, double beta) =>
            new(beta, some.ParameterCount, some.Macs, images is null ? null : ImageAccuracy.Evaluate(some, images, progress: context.Progress, cancellation: cancellation).Top1);
    }

    private static double Number(string word) => double.TryParse(word, CultureInfo.InvariantCulture, out double value)
        ? value
        : throw new EspalierException($"'{word}' is no beta; write numbers with commas between, for example --curve 0.1,0.2,0.3.");
}
