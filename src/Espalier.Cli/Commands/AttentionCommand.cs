using System.CommandLine;
using System.Globalization;
using Espalier.Data;
using Espalier.Methods.Adaptation;
using Espalier.Models.Vision;
using Espalier.Pruning;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier attention</c>: what the attention maps of a ViT look like, layer by layer.</summary>
internal sealed class AttentionCommand : EspalierCommand
{
    private const int BarWidth = 40;

    private readonly Argument<string> _model = new("MODEL") { Description = "A ViT's folder or a hub id." };
    private readonly Option<string> _method = new("--method") { Description = "The method, unip, or a YAML file with it and its options.", HelpName = "NAME|file", DefaultValueFactory = _ => "unip" };
    private readonly Option<string[]> _set = new("--set") { Description = "An option as NAME=VALUE: target=0.09, samples=256, grey=false; may be given several times.", HelpName = "NAME=VALUE" };
    private readonly Option<string> _data = new("--data") { Description = $"Images: {VisionWords.DataForms}.", HelpName = "data", Required = true };

    public AttentionCommand()
        : base("attention", "Shows how every layer of a ViT attends, from local to global, by the mutual information of queries and keys, and which layer to distil.",
            "espalier attention ./vit --data uoft-cs/cifar10:test",
            "espalier attention ./vit --data ./thermal --set target=0.12 --set samples=512")
    {
        Add(_model);
        foreach (Option option in new Option[] { _method, _set, _data })
        {
            Add(option);
        }
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        Unip method = PlanWords.Method<Unip>(parsed.GetRequiredValue(_method), parsed.GetValue(_set) ?? []);
        string folder = await Inputs.ModelAsync(parsed.GetRequiredValue(_model), context, cancellation).ConfigureAwait(false);
        EspalierException.Require(VisionConfig.IsVision(folder), $"{parsed.GetRequiredValue(_model)} is no vision net; attention patterns are measured in ViTs.");
        using VisionModel net = VisionModel.Load(folder, context.Device);
        using ImageTensors images = VisionWords.Images(parsed.GetRequiredValue(_data), net.Config, method.Samples, context, cancellation);
        using ImageTensors? grey = method.Grey && net.Config.Channels == 3 ? Unip.ToGrey(images) : null;
        IReadOnlyList<LayerPattern> patterns = method.Patterns(net, grey ?? images, cancellation);
        int chosen = method.Choose(patterns);
        context.Show(new { model = parsed.GetRequiredValue(_model), layers = patterns, chosen, method.Target }, () =>
        {
            double most = Math.Max(patterns.Max(p => p.Nmi), 1e-9);
            foreach (LayerPattern p in patterns)
            {
                string bar = new('#', (int)Math.Round(BarWidth * p.Nmi / most));
                context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"layer {p.Layer,2}  NMI {p.Nmi:0.0000}  heads {p.Heads.Min():0.000} to {p.Heads.Max():0.000}  {bar}{(p.Layer == chosen ? "  <- nearest to the target" : "")}"));
            }
        });
        return ExitCode.Success;
    }
}
