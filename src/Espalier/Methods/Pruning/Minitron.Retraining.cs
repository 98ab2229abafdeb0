using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial class Minitron
{
    /// <summary>The name of the projection of hidden states in a saved state.</summary>
    internal const string ProjectionName = "minitron.projection";

    /// <summary>Without a memory budget a teacher is kept in memory up to this many bytes in float32.</summary>
    private const long LargestResident = 2L << 30;

    /// <summary>A text that two tokenisers must cut alike to be taken for one.</summary>
    private const string TokenizerProbe = "The quick brown fox, 1984: naïve “façade”.\n\tEnd";

    /// <inheritdoc/>
    /// <exception cref="EspalierException">When rates contradict each other, or the named teacher has another vocabulary or tokeniser.</exception>
    public void Check(ModelConfig config, DecoderBlock block, OutputHead head)
    {
        EspalierException.Require(FinalLearningRate <= LearningRate,
            string.Create(CultureInfo.InvariantCulture, $"The final learning rate of {FinalLearningRate} is above the peak of {LearningRate}; minitron's rate falls."));
        if (TeacherModel is null)
        {
            return;
        }

        string folder = Hub.Resolve(TeacherModel, SilentProgress.Instance);
        RequireSameVocabulary(ModelConfig.Load(folder), config);
        string? own = Path.GetDirectoryName(config.Fields.Origin);
        if (HasTokenizer(folder) && own is not null && HasTokenizer(own))
        {
            Tokenizer theirs = Tokenizer.Load(folder), ours = Tokenizer.Load(own);
            EspalierException.Require(theirs.VocabularySize == ours.VocabularySize && theirs.Encode(TokenizerProbe).SequenceEqual(ours.Encode(TokenizerProbe)),
                $"The teacher {TeacherModel} cuts text into other tokens than the model to train; distillation compares token by token, so choose a teacher with the same tokeniser.");
        }
    }

    /// <summary>
    /// Step 7 on a whole model: every parameter is trained to predict as the teacher does (the dense model, or another of the same
    /// vocabulary). Masks are kept; a model that was cut has none, and may be narrower or shallower than its teacher.
    /// </summary>
    /// <inheritdoc/>
    public RetrainingResult Retrain(RetrainingContext context)
    {
        using var scope = NewDisposeScope();
        using StreamedModel? other = TeacherModel is null ? null : StreamedModel.Open(Hub.Resolve(TeacherModel, context.Progress, context.Cancellation));
        StreamedModel dense = other ?? context.Dense ?? throw new EspalierException("Distillation needs the dense model as teacher, and none was given; name another with teacher_model.");
        LanguageModel student = context.Model;
        RequireSameVocabulary(dense.Config, student.Config);
        using DistillationTeacher teacher = Open(dense, context);
        using TrainableSubset subset = TrainableSubset.Select(student, new Perp { Subset = Subset.Full });
        Parameter? projection = HiddenStates is HiddenPlaces.None ? null : MakeProjection(student.Config.HiddenSize, dense.Config.HiddenSize, context);
        try
        {
            var options = new TrainingOptions { Steps = Steps, LearningRate = LearningRate, Schedule = "cosine", WarmupFraction = WarmupFraction, WeightDecay = WeightDecay };
            using var loop = new TrainingLoop(options, projection is null ? subset.Parameters : [.. subset.Parameters, (ProjectionName, projection)],
                new MinitronObjective(this, student, teacher, context.Batches, projection))
            {
                Masks = KeptZeros.Masks(student.Blocks, context.Masks),
                Schedule = Rate,
                StateFolder = context.StateFolder,
                Progress = context.Progress,
                Identity = string.Create(CultureInfo.InvariantCulture,
                    $"minitron from {TeacherModel ?? "the dense model"}, {Distance} at {Temperature}, cross-entropy {UseCrossEntropy}, states {HiddenStates}, rate to {FinalLearningRate}, batch {Batch}, length {Length}, seed {context.Seed.Value}"),
            };
            TrainingResult result = TrainingLoop.HasState(context.StateFolder) ? loop.Resume(context.Cancellation) : loop.Run(context.Cancellation);
            KeptZeros.Require(student.Blocks, context.Masks, "minitron");
            return new RetrainingResult(subset.Count, result.Losses, result.Seconds, new Dictionary<string, long>(subset.Groups)) { LossName = LossName };
        }
        finally
        {
            projection?.Dispose();
        }
    }

    /// <summary>The learning rate of a step, from 0: up from 0 in the warm-up, then by a cosine from the peak towards the final rate.</summary>
    public double Rate(long step)
    {
        int warmup = (int)Math.Ceiling(WarmupFraction * Steps);
        return step < warmup
            ? LearningRateSchedule.At("cosine", step, Steps, warmup, LearningRate)
            : FinalLearningRate + LearningRateSchedule.At("cosine", step, Steps, warmup, LearningRate - FinalLearningRate);
    }

    private string LossName => (HiddenStates, UseCrossEntropy) switch
    {
        (HiddenPlaces.None, false) => $"distance to the teacher ({Distance.ToString().ToLowerInvariant()})",
        (HiddenPlaces.None, true) => $"distance to the teacher ({Distance.ToString().ToLowerInvariant()}) + cross-entropy",
        (_, false) => $"distance to the teacher ({Distance.ToString().ToLowerInvariant()} and hidden states)",
        _ => $"distance to the teacher ({Distance.ToString().ToLowerInvariant()} and hidden states) + cross-entropy",
    };

    private DistillationTeacher Open(StreamedModel dense, RetrainingContext context)
    {
        Device device = context.Model.Tensors.First().Value.device;
        long teacherBytes = dense.Source.Names.Sum(n => dense.Source.Info(n).ElementCount) * sizeof(float);

        // Beside the student, which is loaded: its gradients, two moments and the last good copy.
        long training = context.Model.ParameterCount * (BytesPerParameter - sizeof(float));
        bool resident = Teacher switch
        {
            TeacherPlacement.Resident => true,
            TeacherPlacement.Streamed => false,
            _ => context.Memory is { } budget ? Machine.ResidentBytes + training + teacherBytes <= budget : teacherBytes <= LargestResident,
        };
        context.Progress.Say(resident ? $"The teacher is kept in memory ({Text.Bytes(teacherBytes)})." : "The teacher is read block by block for every batch.");
        return resident ? DistillationTeacher.Resident(dense, device, context.Progress) : DistillationTeacher.Streamed(dense, device);
    }

    /// <summary>P [teacher width, student width]: the identity where widths are equal, else normal with a variance of 1 / student width.</summary>
    private static Parameter MakeProjection(long student, long teacher, RetrainingContext context)
    {
        using var scope = NewDisposeScope();
        using Generator generator = context.Seed.Generator(ProjectionName);
        Device device = context.Model.Tensors.First().Value.device;
        Tensor start = student == teacher ? eye(teacher) : randn([teacher, student], generator: generator) / Math.Sqrt(student);
        Parameter projection = Parameters.Empty([teacher, student], ScalarType.Float32, device);
        using var frozen = no_grad();
        projection.copy_(start);
        projection.requires_grad = true;
        return projection;
    }

    private void RequireSameVocabulary(ModelConfig teacher, ModelConfig student) => EspalierException.Require(teacher.VocabSize == student.VocabSize,
        $"The teacher {TeacherModel ?? "(the dense model)"} has {teacher.VocabSize} tokens and the model to train {student.VocabSize}; distillation compares their predictions, so both need the same vocabulary.");

    private static bool HasTokenizer(string folder) => CompanionFiles.Tokenizer.Any(f => f is "tokenizer.json" or "tokenizer.model" or "vocab.json" && File.Exists(Path.Combine(folder, f)));
}
