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

    /// <summary>Writes the masks of a checkpoint folder, one after the other.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="names">The weights.</param>
    /// <param name="mask">Answers the mask of a weight; asked twice for each, so that never more than one is held.</param>
    public static void Save(string folder, IReadOnlyCollection<string> names, Func<string, SparsityMask> mask)
    {
        var plan = new List<TensorInfo>();
        var metadata = new Dictionary<string, string> { ["format"] = "espalier-masks-1" };
        foreach (string name in names)
        {
            SparsityMask one = mask(name);
            plan.Add(ElementTypes.Plan(name, ScalarType.Byte, one.Bits.Length));
            metadata[name] = Shape(one);
        }

        using var writer = SafeTensorsWriter.Create(Path.Combine(folder, FileName), plan, metadata);
        foreach (string name in names)
        {
            writer.WriteBytes(name, mask(name).Bits);
        }

        writer.Commit();
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
        return file.Names.ToDictionary(n => n, n => Read(file, n), StringComparer.Ordinal);
    }

    internal static void Append(
        string prefix, IReadOnlyDictionary<string, SparsityMask> masks, List<(string, Tensor)> tensors, Dictionary<string, string> metadata)
    {
        foreach ((string name, SparsityMask mask) in masks)
        {
            tensors.Add((prefix + name, tensor(mask.Bits.ToArray())));
            metadata[prefix + name] = Shape(mask);
        }
    }

    internal static SparsityMask Read(SafeTensorsFile file, string name)
    {
        string shape = file.Metadata.GetValueOrDefault(name, "none");
        string[] sides = shape.Split('x');
        EspalierException.Require(
            sides.Length == 2 && long.TryParse(sides[0], CultureInfo.InvariantCulture, out _) && long.TryParse(sides[1], CultureInfo.InvariantCulture, out _),
            $"The mask of {name} in {file.Path} has no readable shape ('{shape}'); the file is damaged.");
        var bits = new byte[file.Info(name).ByteCount];
        file.ReadBytes(name, 0, bits);
        return SparsityMask.FromBits(bits, long.Parse(sides[0], CultureInfo.InvariantCulture), long.Parse(sides[1], CultureInfo.InvariantCulture));
    }

    private static string Shape(SparsityMask mask) => string.Create(CultureInfo.InvariantCulture, $"{mask.Rows}x{mask.Columns}");
}
