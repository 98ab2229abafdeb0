using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Vision;

public sealed partial class VisionModel
{
    private const int Shown = 3;

    /// <summary>Every stored tensor, parameters first.</summary>
    public IEnumerable<(string Name, Tensor Value)> Tensors => Parameters.Select(p => (p.Name, (Tensor)p.Value)).Concat(Buffers);

    /// <summary>Opens a checkpoint folder.</summary>
    /// <param name="folder">The folder with config.json and weights.</param>
    /// <param name="device">Where the net lives; null is the CPU.</param>
    /// <exception cref="EspalierException">When config.json and the tensors do not belong together.</exception>
    public static VisionModel Load(string folder, Device? device = null)
    {
        using Checkpoint checkpoint = Checkpoint.Open(folder);
        return Load(VisionConfig.Load(folder), checkpoint, device);
    }

    /// <summary>Fills a net from named tensors.</summary>
    /// <exception cref="EspalierException">Naming tensors that are missing, unknown or of another shape.</exception>
    public static VisionModel Load(VisionConfig config, ITensorSource source, Device? device = null)
    {
        var model = new VisionModel(config, device ?? CPU);
        try
        {
            model.Fill(source);
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>Writes the net as a checkpoint folder, all or nothing.</summary>
    /// <param name="folder">The folder; made when there is none.</param>
    public void Save(string folder)
    {
        Directory.CreateDirectory(folder);
        using CheckpointWriter writer = CheckpointWriter.Create(folder, [.. Tensors.Select(t => ElementTypes.Plan(t.Name, t.Value.dtype, t.Value.shape))]);
        foreach ((string name, Tensor value) in Tensors)
        {
            writer.Write(name, value);
        }

        AtomicFile.WriteText(Path.Combine(folder, ModelConfig.FileName), Config.ToJsonText());
        writer.Commit();
    }

    private void Fill(ITensorSource source)
    {
        IReadOnlyList<string> ignored = VisionFamily.Named(Config.ModelType, Config.Fields.Origin).IgnoredPrefixes;
        List<(string Name, Tensor Value)> wanted = [.. Tensors];
        string[] missing = [.. wanted.Select(t => t.Name).Where(n => !source.Contains(n))];
        string[] unknown = [.. source.Names.Except(wanted.Select(t => t.Name)).Where(n => !n.EndsWith(".num_batches_tracked", StringComparison.Ordinal) && !ignored.Any(p => n.StartsWith(p, StringComparison.Ordinal)))];
        string[] misshapen = [.. wanted.Where(t => source.Contains(t.Name) && !source.Info(t.Name).Shape.SequenceEqual(t.Value.shape))
            .Select(t => $"{t.Name} is [{string.Join(", ", source.Info(t.Name).Shape)}] instead of [{string.Join(", ", t.Value.shape)}]")];
        string[] faults = [.. new[] { Fault("missing", missing), Fault("unknown", unknown), Fault("of another shape", misshapen) }.OfType<string>()];
        EspalierException.Require(faults.Length == 0, $"The tensors do not belong to {Config.Fields.Origin} ({Config.ModelType}): {string.Join("; ", faults)}.");
        using var frozen = no_grad();
        foreach ((string name, Tensor value) in wanted)
        {
            using var scope = NewDisposeScope();
            value.copy_(source.Read(name));
        }
    }

    private static string? Fault(string what, string[] names) => names.Length == 0
        ? null
        : $"{names.Length} {what} ({string.Join(", ", names.Take(Shown))}{(names.Length > Shown ? ", …" : "")})";
}
