using System.Globalization;
using System.Text.Json;
using Espalier.Runtime;
using TorchSharp.Modules;

namespace Espalier.Training;

/// <summary>Everything besides the data that decides what a run computes, entry by entry, so that a difference can be named.</summary>
internal sealed class TrainingFingerprint
{
    private readonly SortedDictionary<string, string> _entries = new(StringComparer.Ordinal);

    public TrainingFingerprint(
        TrainingOptions options, string optimizer, IReadOnlyList<OptimizedParameter> parameters, KeepMasks masks, IReadOnlyList<ITrainingHook> hooks, string identity)
    {
        Add("the number of steps", options.Steps);
        Add("the learning rate", options.LearningRate);
        Add("the schedule", options.Schedule == "multistep"
            ? string.Create(CultureInfo.InvariantCulture, $"multistep at {string.Join(" and ", options.Milestones.Select(m => m.ToString("R", CultureInfo.InvariantCulture)))} × {options.MilestoneFactor:R}")
            : options.Schedule);
        Add("the number of warm-up steps", options.Warmup);
        Add("the norm that gradients are clipped to", options.ClipNorm);
        Add("the number of accumulated micro-batches", options.Accumulation);
        Add("the optimizer", optimizer);
        Add("the hooks", string.Join(", ", hooks.Select(h => h.Name)));
        Add("what is trained on", identity);
        Add("the number of trainable parameters", parameters.Count);
        foreach ((string name, Parameter value, ParameterGroup group) in parameters)
        {
            Add($"the parameter {name}", string.Create(CultureInfo.InvariantCulture, $"{value.dtype} [{string.Join(", ", value.shape)}], learning rate × {group.RateMultiplier:R}, decay × {group.DecayMultiplier:R}"));
        }

        foreach (string name in masks.Names)
        {
            Add($"the mask of {name}", masks.Fingerprint(name));
        }
    }

    /// <summary>The entries as JSON, for the metadata of a saved state.</summary>
    public string ToJson() => JsonSerializer.Serialize(_entries);

    /// <summary>Stops when a saved run is not this one.</summary>
    /// <exception cref="EspalierException">Naming the first difference.</exception>
    public void RequireSame(string savedJson, string path)
    {
        Dictionary<string, string> saved = JsonSerializer.Deserialize<Dictionary<string, string>>(savedJson)!;
        foreach (string entry in saved.Keys.Union(_entries.Keys).Order(StringComparer.Ordinal))
        {
            string before = saved.GetValueOrDefault(entry, "none");
            string now = _entries.GetValueOrDefault(entry, "none");
            EspalierException.Require(before == now,
                $"The training state {path} belongs to another run: {entry} was {before} and is now {now}; resume with what it was, or start anew in another folder.");
        }
    }

    private void Add(string name, object? value) => _entries[name] = value is null ? "none" : Convert.ToString(value, CultureInfo.InvariantCulture)!;
}
