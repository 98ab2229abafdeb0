using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>The masks of a model on disk: packed bits as U8 tensors, with rows and columns in the file's metadata.</summary>
public static class SparsityMasks
{
    /// <summary>The file that lies beside a pruned checkpoint's weights; loaders of other tools ignore it.</summary>
    public const string FileName = "sparsity.safetensors";

    /// <summary>Writes the masks of a checkpoint folder.</summary>
    public static void Save(string folder, IReadOnlyDictionary<string, SparsityMask> masks)
    {
        using var scope = NewDisposeScope();
        var tensors = new List<(string, Tensor)>();
        var metadata = new Dictionary<string, string> { ["format"] = "espalier-masks-1" };
        Append(string.Empty, masks, tensors, metadata);
        SafeTensorsFile.Save(Path.Combine(folder, FileName), tensors, metadata);
    }

    /// <summary>Reads the masks of a checkpoint folder; empty where it was never pruned.</summary>
    /// <exception cref="EspalierException">When the file is damaged.</exception>
    public static IReadOnlyDictionary<string, SparsityMask> Load(string folder)
    {
        string path = Path.Combine(folder, FileName);
        if (!File.Exists(path))
        {
            return new Dictionary<string, SparsityMask>();
        }

        using SafeTensorsFile file = SafeTensorsFile.Open(path);
        return Read(string.Empty, file);
    }

    internal static void Append(
        string prefix, IReadOnlyDictionary<string, SparsityMask> masks, List<(string, Tensor)> tensors, Dictionary<string, string> metadata)
    {
        foreach ((string name, SparsityMask mask) in masks)
        {
            tensors.Add((prefix + name, tensor(mask.Bits.ToArray())));
            metadata[prefix + name] = string.Create(CultureInfo.InvariantCulture, $"{mask.Rows}x{mask.Columns}");
        }
    }

    internal static Dictionary<string, SparsityMask> Read(string prefix, SafeTensorsFile file)
    {
        var masks = new Dictionary<string, SparsityMask>(StringComparer.Ordinal);
        foreach (string name in file.Names)
        {
            if (!name.StartsWith(prefix, StringComparison.Ordinal) || !file.Metadata.TryGetValue(name, out string? shape))
            {
                continue;
            }

            string[] sides = shape.Split('x');
            EspalierException.Require(
                sides.Length == 2 && long.TryParse(sides[0], CultureInfo.InvariantCulture, out _) && long.TryParse(sides[1], CultureInfo.InvariantCulture, out _),
                $"The mask of {name} has no readable shape ('{shape}'); the file is damaged.");
            masks[name[prefix.Length..]] = SparsityMask.FromBits(
                file.Bytes(name), long.Parse(sides[0], CultureInfo.InvariantCulture), long.Parse(sides[1], CultureInfo.InvariantCulture));
        }

        return masks;
    }
}
