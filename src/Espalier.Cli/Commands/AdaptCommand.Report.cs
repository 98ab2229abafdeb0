using System.Globalization;
using System.Text.Json;
using Espalier.Catalogue;
using Espalier.Checkpoints;
using Espalier.Cli.Display;
using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Cli.Commands;

internal sealed partial class AdaptCommand
{
    /// <summary>A measurement before and after.</summary>
    private sealed record Measured(string Data, double Before, double After);

    /// <summary>What one adaptation came to; also adapt.json in the adapter's folder.</summary>
    private sealed record AdaptedReport(
        string Method, string Folder, long TrainedParameters, long NetParameters, long AdapterBytes, long OptimizerBytes, int Steps, double FinalLoss, double BestLoss, int BestStep, bool StoppedEarly,
        double Seconds, string Metric, IReadOnlyList<Measured> Measured, double ReopenedDifference);

    private static AdaptedReport Report(IAdaptation method, AdaptationResult result, string output, double reopened, string metric, IReadOnlyList<Measured> measured)
    {
        string slug = MethodCatalogue.Default.Entries.FirstOrDefault(e => e.Implementation == method.GetType())?.Slug ?? method.GetType().Name;
        long bytes = Directory.EnumerateFiles(output, "*.safetensors").Sum(f => new FileInfo(f).Length);
        var report = new AdaptedReport(
            slug, output, result.TrainedParameters, result.NetParameters, bytes, result.OptimizerBytes, result.Training.Steps, result.Training.FinalLoss, result.Training.BestLoss, result.Training.BestStep,
            result.Training.StoppedEarly, result.Training.Seconds, metric, measured, reopened);
        AtomicFile.WriteText(Path.Combine(output, "adapt.json"), JsonSerializer.Serialize(report, new JsonSerializerOptions(JsonEvents.Options) { WriteIndented = true }) + "\n");
        return report;
    }

    private static void Show(AdaptedReport report, string output, CommandContext context) => context.Show(report, () =>
    {
        string Line(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
        string stopped = report.StoppedEarly ? " (stopped early)" : "";
        context.Output.WriteLine(Line($"{report.Steps} steps in {Text.Duration(TimeSpan.FromSeconds(report.Seconds))}{stopped}: loss {report.FinalLoss:0.###}, best {report.BestLoss:0.###} at step {report.BestStep}"));
        context.Output.WriteLine(Line(
            $"{report.Method} trained {Text.Count(report.TrainedParameters)} numbers, {100.0 * report.TrainedParameters / report.NetParameters:0.###} % of the net's {Text.Count(report.NetParameters)}; the optimiser's state took {Text.Bytes(report.OptimizerBytes)}, the adapter takes {Text.Bytes(report.AdapterBytes)}"));
        foreach (Measured m in report.Measured)
        {
            context.Output.WriteLine(report.Metric == "accuracy"
                ? Line($"accuracy {m.Before:0.00} % before, {m.After:0.00} % after, on {m.Data}")
                : Line($"perplexity {m.Before:0.##} before, {m.After:0.##} after, on {m.Data}"));
        }

        context.Output.WriteLine(Line($"written to {output}; opened again on the base model, logits differ by {report.ReopenedDifference:G3}"));
    });
}
