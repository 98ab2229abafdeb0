using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>Turns a request in words into a job: finds the model and the texts, and cuts them into windows.</summary>
public static class PruneJobs
{
    /// <summary>Makes the job of a request.</summary>
    /// <param name="request">The request.</param>
    /// <param name="device">Where to compute.</param>
    /// <param name="fresh">Start over where unfinished work lies in the output folder.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <param name="shared">The texts of several jobs, so that windows which they share are drawn once; null draws them for this job.</param>
    /// <exception cref="EspalierException">For parts that are unknown or do not go together, and for texts or models that are not there.</exception>
    public static PruningJob Make(PruneRequest request, Device device, bool fresh, IProgressSink progress, CancellationToken cancellation = default, PruneTexts? shared = null)
    {
        PruningPlan plan = request.ToPlan();
        long? memory = request.Memory is null ? null : Text.ParseBytes(request.Memory);
        string folder = Hub.Resolve(request.Model, progress, cancellation);
        EspalierException.Require(!SameFolder(folder, request.Out), $"The output folder {request.Out} is the model's own, so the pruned model would replace the dense one; name another with --out.");
        EspalierException.Require(!File.Exists(request.Out), $"The output {request.Out} is a file; name a folder with --out.");
        ModelConfig config = ModelConfig.Load(folder);
        DataSection data = request.Data;
        bool needsText = plan.NeedsCalibration || plan.Retraining is not null || data.Evaluation is not null || data.Prompts.Count > 0;
        PruneTexts texts = shared ?? new PruneTexts(progress, cancellation);
        Tokenizer? tokenizer = needsText ? texts.Tokenizer(folder) : null;
        var described = new Dictionary<string, string>();
        long[][] calibration = [], evaluation = [];
        if (plan.NeedsCalibration && data.Calibration is not null)
        {
            calibration = texts.Calibration(data, folder, config, plan.Seed);
            described["calibration"] = $"{data.Calibration}, {Fingerprint.Windows(calibration)} of {calibration[0].Length} tokens";
        }

        if (data.Evaluation is not null)
        {
            evaluation = texts.Evaluation(data, folder, config);
            described["evaluation"] = $"{data.Evaluation}, {Fingerprint.Windows(evaluation)} of {evaluation[0].Length} tokens";
        }

        string? training = data.Train ?? data.Calibration;
        if (plan.Retraining is not null && training is not null)
        {
            texts.RequireRetrainable(training, tokenizer!, plan.Retraining.LengthFor(config));
            described["retraining"] = training;
        }

        return new PruningJob
        {
            Model = request.Model,
            Folder = folder,
            Out = Path.GetFullPath(request.Out),
            Plan = plan,
            Calibration = calibration,
            Evaluation = evaluation,
            RetrainingText = plan.Retraining is null || training is null ? null : (batch, length) =>
            {
                var text = new PackedTokens(TokenWindows.FromDocuments(texts.Open(training).Documents, tokenizer!), batch, length, new Seed(plan.Seed.For("retraining text")));
                return (step, micro) => text.Batch(step + micro).to(device);
            },
            Prompts = data.Prompts,
            Tokenizer = tokenizer,
            Data = described,
            Device = device,
            Memory = memory,
            Fresh = fresh,
            PlanYaml = request.ToYaml(),
        };
    }

    private static bool SameFolder(string one, string other) => Real(one) == Real(other);

    private static string Real(string path)
    {
        string full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(path));
        return Directory.Exists(full) ? new DirectoryInfo(full).ResolveLinkTarget(returnFinalTarget: true)?.FullName ?? full : full;
    }
}
