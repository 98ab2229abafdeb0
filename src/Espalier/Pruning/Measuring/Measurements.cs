using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Pruning.Measuring;

/// <summary>
/// What a part of a plan measured on the dense model, in files of the run's working folder: durable piece by piece, so
/// that a run that was interrupted does not measure twice, and read one tensor at a time.
/// </summary>
/// <param name="folder">The working folder.</param>
/// <param name="part">The part's word; keeps the pieces of two parts apart.</param>
public sealed class Measurements(string folder, string part) : IDisposable
{
    private const string Ending = ".safetensors";

    private Dictionary<string, SafeTensorsFile>? _byName;

    private string Prefix => $"measured-{part}-";

    /// <summary>Whether a piece was saved.</summary>
    public bool Has(string piece) => File.Exists(PathOf(piece));

    /// <summary>Makes a piece durable.</summary>
    /// <param name="piece">Its name ("block-3").</param>
    /// <param name="tensors">Named tensors, each name in one piece only; they stay the caller's.</param>
    /// <exception cref="EspalierException">When the disk refuses.</exception>
    public void Save(string piece, IEnumerable<(string Name, Tensor Value)> tensors)
    {
        SafeTensorsFile.Save(PathOf(piece), tensors);
        Dispose();
    }

    /// <summary>Reads a tensor, in the caller's scope.</summary>
    /// <exception cref="EspalierException">When it was not measured.</exception>
    public Tensor Read(string name)
    {
        _byName ??= Open();
        return _byName.TryGetValue(name, out SafeTensorsFile? file)
            ? file.Read(name)
            : throw new EspalierException($"{part} has not measured {name}; the working folder {folder} is damaged, use --fresh to start over.");
    }

    /// <summary>Reads a number.</summary>
    public double Number(string name)
    {
        using var scope = NewDisposeScope();
        return Read(name).to(ScalarType.Float64).item<double>();
    }

    /// <summary>Closes the files; they are opened again when they are needed.</summary>
    public void Dispose()
    {
        foreach (SafeTensorsFile file in (_byName?.Values ?? Enumerable.Empty<SafeTensorsFile>()).Distinct())
        {
            file.Dispose();
        }

        _byName = null;
    }

    private Dictionary<string, SafeTensorsFile> Open()
    {
        var byName = new Dictionary<string, SafeTensorsFile>(StringComparer.Ordinal);
        foreach (string path in Directory.EnumerateFiles(folder, Prefix + "*" + Ending).Order(StringComparer.Ordinal))
        {
            SafeTensorsFile file = SafeTensorsFile.Open(path);
            foreach (string name in file.Names)
            {
                byName[name] = file;
            }
        }

        return byName;
    }

    private string PathOf(string piece) => Path.Combine(folder, Prefix + piece + Ending);
}
