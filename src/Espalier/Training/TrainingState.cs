using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>How far a run is, besides its tensors.</summary>
/// <param name="Losses">The losses of the steps done.</param>
/// <param name="Seconds">The time in training.</param>
/// <param name="Stopped">Whether a hook has ended the run.</param>
internal sealed record TrainingPosition(IReadOnlyList<double> Losses, double Seconds, bool Stopped);

/// <summary>
/// Saves a run so that it can go on as if it had never stopped: one file <c>state.safetensors</c> with the trained tensors,
/// the optimiser's and hooks' state, the masks, the losses so far and the CPU generator's state; written all or nothing.
/// </summary>
internal sealed class TrainingState
{
    /// <summary>The name of the file in the state folder.</summary>
    public const string FileName = "state.safetensors";

    private const string Format = "espalier-training-1";

    private readonly string _path;
    private readonly TrainingFingerprint _fingerprint;
    private readonly IReadOnlyList<(string Name, Parameter Value)> _trainable;
    private readonly IReadOnlyList<(string Name, Tensor Value)> _buffers;
    private readonly IOptimizer _optimizer;
    private readonly KeepMasks _masks;
    private readonly IReadOnlyList<ITrainingHook> _hooks;

    public TrainingState(
        string folder, TrainingFingerprint fingerprint, IReadOnlyList<(string Name, Parameter Value)> trainable, IReadOnlyList<(string Name, Tensor Value)> buffers, IOptimizer optimizer, KeepMasks masks, IReadOnlyList<ITrainingHook> hooks)
    {
        _path = Path.Combine(folder, FileName);
        (_fingerprint, _trainable, _buffers, _optimizer, _masks, _hooks) = (fingerprint, trainable, buffers, optimizer, masks, hooks);
    }

    /// <summary>Writes the state over the one before.</summary>
    /// <exception cref="EspalierException">When the folder cannot be written.</exception>
    public void Save(TrainingPosition position)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        var tensors = new List<(string, Tensor)>();
        tensors.AddRange(_trainable.Select(t => ($"parameter.{t.Name}", (Tensor)t.Value)));
        tensors.AddRange(_buffers.Select(b => ($"buffer.{b.Name}", b.Value)));
        tensors.AddRange(_optimizer.SaveState().Select(t => ($"optimizer.{t.Name}", t.Value)));
        tensors.AddRange(_masks.Names.Select(name => ($"mask.{name}", _masks.Keep(name)!)));
        foreach (ITrainingHook hook in _hooks)
        {
            tensors.AddRange(hook.SaveState().Select(t => ($"hook.{hook.Name}.{t.Name}", t.Value)));
        }

        tensors.Add(("loop.losses", tensor(position.Losses.ToArray(), ScalarType.Float64)));
        tensors.Add(("loop.generator", get_rng_state()));
        SafeTensorsFile.Save(_path, tensors, new Dictionary<string, string>
        {
            ["format"] = Format,
            ["step"] = position.Losses.Count.ToString(CultureInfo.InvariantCulture),
            ["seconds"] = position.Seconds.ToString("R", CultureInfo.InvariantCulture),
            ["stopped"] = position.Stopped ? "true" : "false",
            ["fingerprint"] = _fingerprint.ToJson(),
        });
    }

    /// <summary>Puts everything back as it was saved.</summary>
    /// <exception cref="EspalierException">When there is no state, it is damaged, or it belongs to another run.</exception>
    public TrainingPosition Load()
    {
        EspalierException.Require(File.Exists(_path), $"There is no training to resume: {_path} does not exist; start it without resuming.");
        using var file = SafeTensorsFile.Open(_path);
        EspalierException.Require(file.Metadata.GetValueOrDefault("format") == Format, $"{_path} is not the state of a training run; name the folder that the run saved to.");
        _fingerprint.RequireSame(file.Metadata["fingerprint"], _path);

        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        foreach ((string name, Parameter value) in _trainable)
        {
            value.copy_(file.Read($"parameter.{name}"));
        }

        foreach ((string name, Tensor value) in _buffers)
        {
            value.copy_(file.Read($"buffer.{name}"));
        }

        _optimizer.LoadState(Part(file, "optimizer."));
        foreach ((string name, Tensor keep) in Part(file, "mask."))
        {
            _masks.Set(name, keep);
        }

        foreach (ITrainingHook hook in _hooks)
        {
            hook.LoadState(Part(file, $"hook.{hook.Name}."));
        }

        set_rng_state(file.Read("loop.generator"));
        double[] losses = [.. file.Read("loop.losses").data<double>()];
        return new TrainingPosition(losses, double.Parse(file.Metadata["seconds"], CultureInfo.InvariantCulture), file.Metadata["stopped"] == "true");
    }

    private static Dictionary<string, Tensor> Part(SafeTensorsFile file, string prefix) =>
        file.Names.Where(name => name.StartsWith(prefix, StringComparison.Ordinal)).ToDictionary(name => name[prefix.Length..], name => file.Read(name));
}
