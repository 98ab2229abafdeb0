using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using Espalier.Training.Jobs;

namespace Espalier.Cli.Commands;

internal sealed partial class TrainCommand
{
    private readonly Option<string?> _method = new("--method") { Description = "Vision nets: a system that works on a trained net: a name (`espalier methods vision` lists them), or a YAML file with its method and options.", HelpName = "NAME|file" };

    private readonly Option<int> _workers = new("--workers") { Description = "--method sms and oracle: trainings that do not depend on each other run in up to so many processes, each with --threads threads (default: the cores divided by N); 0 trains in this process, one after the other.", HelpName = "N", DefaultValueFactory = _ => 0 };
    private readonly Option<string?> _memoryLimit = new("--memory-limit") { Description = "With --workers: the most memory that they may take together, such as 6GiB. The first runs alone until its share is known.", HelpName = "size" };
    private readonly Option<string?> _workFolder = new("--work-folder") { Description = "With --workers: where trainings are laid out, so that other machines can join with espalier work (default: within the output folder).", HelpName = "folder" };

    /// <summary>The workers that were asked for; null for none.</summary>
    private WorkerOptions? Workers(ParseResult parsed, IVisionMethod? method, string state, CommandContext? context)
    {
        int workers = parsed.GetValue(_workers);
        EspalierException.Require(workers >= 0, $"--workers {workers} is not possible; give 1 or more, or 0 to train in this process.");
        string? limit = parsed.GetValue(_memoryLimit), folder = parsed.GetValue(_workFolder);
        EspalierException.Require(workers > 0 || (limit is null && folder is null), $"{(limit is null ? "--work-folder" : "--memory-limit")} is for workers; add --workers N.");
        EspalierException.Require(workers == 0 || method?.UsesCrew == true, "--workers is for methods with trainings that do not depend on each other (--method sms or oracle); leave it out.");
        return workers == 0 ? null : new WorkerOptions
        {
            Folder = folder is null ? Path.Combine(state, WorkFolderName) : Path.GetFullPath(folder),
            Workers = workers,
            Threads = context?.Settings.Threads,
            MemoryLimit = limit is null ? null : Text.ParseBytes(limit),
            Device = context?.Settings.Device ?? "auto",
            Progress = context?.Progress ?? SilentProgress.Instance,
        };
    }

    /// <summary>The system of <c>--method</c> with its options; null where none was named.</summary>
    private IVisionMethod? Method(ParseResult parsed)
    {
        string[] set = parsed.GetValue(_set) ?? [];
        if (parsed.GetValue(_method) is not { } word)
        {
            EspalierException.Require(set.Length == 0 || parsed.GetValue(_sparse) is not null, "--set gives options of a method, and none was named; add --method NAME or --sparse-training NAME.");
            return null;
        }

        EspalierException.Require(parsed.GetValue(_sparse) is null, "--method runs its own trainings and --sparse-training changes one; use one of them.");
        return PlanWords.Method<IVisionMethod>(word, set);
    }

    private int RunMethod(IVisionMethod method, ParseResult parsed, TrainingOptions options, string start, string output, string state, CommandContext context, WorkerOptions? workers, CancellationToken cancellation)
    {
        string[] data = parsed.GetRequiredValue(_data);
        EspalierException.Require(data.Length == 1, "A vision net is trained on the images of one --data.");
        EspalierException.Require(parsed.GetValue(_stopAfter) is null, "A --method has trainings of its own, so that --stop-after would not say which; leave it out (Ctrl-C stops, and --resume goes on).");
        using VisionModel model = VisionModel.Load(start, context.Device);
        model.Config.RequireClassifier("--method");
        method.Check(model, options);
        using ImageTensors images = VisionWords.Images(data[0], model.Config, null, context, cancellation);
        using ImageTensors? test = parsed.GetValue(_evalData) is { } reference ? VisionWords.Images(reference, model.Config, null, context, cancellation) : null;
        Directory.CreateDirectory(output);
        using WorkerCrew? crew = workers is null ? null : new WorkerCrew(workers);
        using VisionMethodResult result = Guarded(() => method.Run(
            new VisionMethodContext
            {
                Model = model,
                Images = images,
                Test = test,
                Options = options,
                Batch = parsed.GetValue(_batch),
                Augmentation = VisionWords.Augmentation(parsed.GetValue(_augment)),
                Seed = new Seed(parsed.GetValue(_seed)),
                Folder = output,
                States = new TrainingStates(state),
                Crew = crew is null ? OneAfterTheOther.Instance : crew,
                Progress = context.Progress,
            },
            cancellation), context);
        result.Net.Save(output);
        if (result.Masks.Count > 0)
        {
            SparsityMasks.Save(output, [.. result.Masks.Keys], name => result.Masks[name]);
        }

        crew?.Clear();
        crew?.Dispose();
        Forget(state);
        JsonObject? quality = parsed.GetValue(_evalData) is { } measured ? VisionWords.Evaluate(output, output, measured, null, context, cancellation) : null;
        context.Show(
            new { folder = output, parameters = result.Net.ParameterCount, result.Sparsity, figures = result.Figures.ToDictionary(f => f.Name, f => f.Value), accuracy = (double?)quality?["accuracy"] },
            () =>
            {
                foreach ((string name, double value) in result.Figures)
                {
                    context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name}: {value:G4}"));
                }

                context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Text.Count(result.Net.ParameterCount)} parameters, {100 * result.Sparsity:0.##} % of the weights zero"));
                if (quality is not null)
                {
                    VisionWords.Print(context, quality);
                }

                context.Output.WriteLine($"written to {output}");
            });
        return ExitCode.Success;
    }
}
