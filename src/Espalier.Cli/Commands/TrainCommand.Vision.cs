using System.CommandLine;
using System.Text.Json.Nodes;
using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Cli.Commands;

internal sealed partial class TrainCommand
{
    private static WeightLayer Masked(VisionModel model, string name) => model.Weights.FirstOrDefault(w => w.WeightName == name)
        ?? throw new EspalierException($"{SparsityMasks.FileName} has a mask for {name}, which is no weight of this net; it belongs to another one.");

    private int TrainVision(ParseResult parsed, TrainingOptions options, IOptimizerMethod? optimizer, ISparseTraining? sparse, string? start, string output, string state, CommandContext context, CancellationToken cancellation)
    {
        string[] data = parsed.GetRequiredValue(_data);
        EspalierException.Require(data.Length == 1 && parsed.GetValue(_tokenizer) is null, "A vision net is trained on the images of one --data and has no tokeniser.");
        var seed = new Seed(parsed.GetValue(_seed));
        string file = parsed.GetRequiredValue(_config);
        using VisionModel model = start is null ? VisionModel.Random(VisionConfig.Parse(File.ReadAllText(file), file), seed, context.Device) : VisionModel.Load(start, context.Device);
        sparse?.Check(NetWeight.Of(model), options.Steps);
        optimizer?.Check(NetWeight.Of(model), options);
        using ImageTensors images = VisionWords.Images(data[0], model.Config, null, context, cancellation);
        context.Progress.Say($"{Text.Count(model.ParameterCount)} parameters, {Text.Count(images.Count)} images.");
        var training = new VisionTraining(options)
        {
            Batch = parsed.GetValue(_batch),
            Augmentation = VisionWords.Augmentation(parsed.GetValue(_augment)),
            Seed = seed,
            Sparse = sparse,
            Optimizer = optimizer,
            Resume = parsed.GetValue(_resume),
            StopAfter = parsed.GetValue(_stopAfter),
            StateFolder = state,
            LogFolder = Path.Combine(output, LogFolderName),
            Progress = context.Progress,
        };
        using var scope = NewDisposeScope();
        // A pruned checkpoint stays as sparse as it is; masks are stored as matrices.
        Dictionary<string, Tensor>? masks = start is null ? null : SparsityMasks.Load(start).ToDictionary(
            m => m.Key, m => m.Value.ToTensor(context.Device).view(Masked(model, m.Key).Weight.shape));
        TrainingResult result = Guarded(() => training.Run(model, images, masks, cancellation), context);
        using VisionModel? smaller = (sparse as ICuttingTraining)?.Shrink(model);
        (smaller ?? model).Save(output);
        if (smaller is null)
        {
            SaveMasks(output, result);
        }
        else
        {
            context.Progress.Say($"Cut out what is zero: {Text.Count(smaller.ParameterCount)} parameters and {Text.Count(smaller.Macs)} multiply-accumulates are left of {Text.Count(model.ParameterCount)} and {Text.Count(model.Macs)}.");
        }

        Forget(state);
        JsonObject? quality = parsed.GetValue(_evalData) is { } reference ? VisionWords.Evaluate(output, output, reference, null, context, cancellation) : null;
        Show(output, (smaller ?? model).ParameterCount, result, null, quality, null, context);
        return ExitCode.Success;
    }
}
