using System.Text.Json;
using System.Text.Json.Serialization;
using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Runtime;

namespace Espalier.Training.Jobs;

/// <summary>What <c>job.json</c> says of a training beside its net and masks.</summary>
internal sealed record JobDescription
{
    private const string KnownFormat = "espalier-training-job-1";
    private const int MostPadding = 1 << 10, MostThreads = 1 << 12;

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        WriteIndented = true,
        IgnoreReadOnlyProperties = true,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow, // an option of a later version would otherwise be left out without a word
    };

    public string Format { get; init; } = KnownFormat;

    /// <summary>The name of the image set in the work folder.</summary>
    public required string Images { get; init; }

    /// <summary>How many threads it is to be trained with wherever that happens, because their number decides the last bits.</summary>
    public required int Threads { get; init; }

    public required TrainingOptions Options { get; init; }

    public IReadOnlyList<double>? Rates { get; init; }

    public required long Seed { get; init; }

    public required int Batch { get; init; }

    public required ImageAugmentation Augmentation { get; init; }

    public static JobDescription Of(TrainingJob job, string images, int threads) => new()
    {
        Images = images, Threads = threads, Options = job.Options, Rates = job.Rates, Seed = job.Seed.Value, Batch = job.Batch, Augmentation = job.Augmentation,
    };

    public static JobDescription Load(string path)
    {
        try
        {
            JobDescription description = JsonSerializer.Deserialize<JobDescription>(File.ReadAllText(path), Json) ?? throw new JsonException("nothing in it");
            EspalierException.Require(description.Format == KnownFormat, $"{path} has the format '{description.Format}', and this version reads {KnownFormat}; use the same version of espalier everywhere.");
            EspalierException.Require(description.Batch > 0 && description.Threads is >= 1 and <= MostThreads && description.Augmentation.Padding is >= 0 and <= MostPadding && (description.Rates is null || description.Rates.Count >= description.Options.Steps),
                $"{path} describes no training that is possible (images per step {description.Batch}, threads {description.Threads}, padding {description.Augmentation.Padding}, {description.Rates?.Count} rates); delete its folder, and the run that wrote it writes it anew.");
            description.Options.Validate();
            return description;
        }
        catch (Exception fault) when (fault is JsonException or NotSupportedException)
        {
            throw new EspalierException($"{path} is no sound description of a training ({fault.Message.Split('\n')[0].TrimEnd('.')}); delete its folder, and the run that wrote it writes it anew.", fault);
        }
    }

    public string ToJson() => JsonSerializer.Serialize(this, Json);

    public void Save(string path) => AtomicFile.WriteText(path, ToJson());
}
