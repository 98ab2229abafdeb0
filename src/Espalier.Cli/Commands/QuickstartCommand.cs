using System.CommandLine;
using Espalier.Pruning;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier quickstart</c>: the main job on the shipped model, offline, in under two minutes.</summary>
internal sealed class QuickstartCommand : EspalierCommand
{
    private readonly Option<string> _out = new("--out") { Description = "The output folder.", DefaultValueFactory = _ => "espalier-quickstart" };
    private readonly Option<double> _sparsity = new("--sparsity") { Description = "The share of weights to remove; on a model this small half of them hardly matters.", DefaultValueFactory = _ => 0.75 };

    public QuickstartCommand()
        : base(
            "quickstart",
            "Prunes the language model that Espalier ships, wins the loss back by training under 2 % of it, and shows what happened. Offline.",
            "espalier quickstart",
            "espalier quickstart --sparsity 0.8 --out ./try")
    {
        Add(_out);
        Add(_sparsity);
        KeepRuns();
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        var request = new PruneRequest
        {
            Model = Assets.DefaultModel,
            Out = parsed.GetRequiredValue(_out),
            Data = new DataSection
            {
                Calibration = Assets.TrainingText,
                Evaluation = Assets.HeldOutText,
                Samples = 32,
                Windows = 64,
                Prompts = ["Elizabeth could not help", "\"My dear,\" said he, \""],
            },
            Prune = new PruneSection { Criterion = "wanda", Sparsity = parsed.GetValue(_sparsity) },
            Retrain = new Dictionary<string, object?>
            {
                ["method"] = "perp", ["subset"] = "norms,masklora", ["rank"] = 2, ["alpha"] = 4, ["steps"] = 150, ["batch"] = 8, ["length"] = 128,
            },
        };
        context.Recording?.Describe(null, request.Out, "the default model", request.Seed);
        PruningJob job = await Task.Run(() => PruneJobs.Make(request, context.Device, fresh: true, context.Progress, cancellation), cancellation).ConfigureAwait(false);
        PruningReport report = await Pruner.RunAsync(job, context.Progress, cancellation).ConfigureAwait(false);
        PruningReportPage.SaveAll(report);
        context.Show(report, () => PruningText.ShowReport(context, report));
        return ExitCode.Success;
    }
}
