using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Checkpoints;

/// <summary>
/// A model folder open for reading, in one safetensors file or in shards with an index. Tensors are read one at a time.
/// </summary>
/// <remarks>
/// All files are opened at once, so that a checkpoint written over this one (input folder = output folder) changes nothing for the
/// reader. Where a folder has both, <c>model.safetensors</c> goes before the index, as it does in other tools.
/// </remarks>
public sealed class Checkpoint : ITensorSource, IDisposable
{
    /// <summary>The name of an unsharded checkpoint's file.</summary>
    public const string SingleFileName = "model.safetensors";

    /// <summary>The name of a sharded checkpoint's index.</summary>
    public const string IndexFileName = SingleFileName + CheckpointIndex.Suffix;

    private readonly Dictionary<string, SafeTensorsFile> fileOf = new(StringComparer.Ordinal);
    private readonly List<SafeTensorsFile> files;
    private bool disposed;

    private Checkpoint(string folder, List<SafeTensorsFile> files, IReadOnlyDictionary<string, string>? weightMap)
    {
        Folder = folder;
        this.files = files;
        var names = new List<string>();
        foreach (SafeTensorsFile file in files)
        {
            string fileName = Path.GetFileName(file.Path);
            foreach (string name in file.Names)
            {
                // A shard may hold more than the index says; what the index does not name is not part of the model.
                if (weightMap is null || (weightMap.TryGetValue(name, out string? owner) && owner == fileName))
                {
                    fileOf.Add(name, file);
                    names.Add(name);
                    TotalBytes += file.Info(name).ByteCount;
                }
            }
        }

        foreach ((string name, string file) in weightMap ?? new Dictionary<string, string>())
        {
            EspalierException.Require(
                fileOf.ContainsKey(name),
                $"The index in {folder} says that tensor '{name}' lies in {file}, but it is not there; download the checkpoint again.");
        }

        Names = names;
        Metadata = files[0].Metadata;
    }

    /// <summary>The folder that it was opened from.</summary>
    public string Folder { get; }

    /// <summary>The bytes of all tensors together, as stored.</summary>
    public long TotalBytes { get; }

    /// <summary>The metadata of the (first) file.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>The files that it lies in.</summary>
    public IReadOnlyList<SafeTensorsFile> Files => files;

    /// <inheritdoc/>
    public IReadOnlyList<string> Names { get; }

    /// <summary>Opens a checkpoint and checks every header in it.</summary>
    /// <param name="path">A model's folder, or one *.safetensors file.</param>
    /// <exception cref="EspalierException">When there is none, a shard is missing, the index lies, or there are only pickles.</exception>
    public static Checkpoint Open(string path)
    {
        if (File.Exists(path))
        {
            string owner = Path.GetDirectoryName(Path.GetFullPath(path))!;
            return path.EndsWith(CheckpointIndex.Suffix, StringComparison.Ordinal)
                ? OpenShards(owner, path)
                : OpenAll(owner, [path], null);
        }

        EspalierException.Require(Directory.Exists(path), $"There is no folder or file {path}; check the path of the model.");
        if (File.Exists(Path.Combine(path, SingleFileName)))
        {
            return OpenAll(path, [Path.Combine(path, SingleFileName)], null);
        }

        string index = Path.Combine(path, IndexFileName);
        return File.Exists(index) ? OpenShards(path, index) : OpenOther(path);
    }

    /// <inheritdoc/>
    public bool Contains(string name) => fileOf.ContainsKey(name);

    /// <inheritdoc/>
    public TensorInfo Info(string name) => Find(name).Info(name);

    /// <inheritdoc/>
    public Tensor Read(string name, ScalarType? type = null) => Find(name).Read(name, type);

    /// <summary>The file that holds a tensor, for its bytes.</summary>
    /// <exception cref="EspalierException">When there is no tensor of this name.</exception>
    public SafeTensorsFile FileOf(string name) => Find(name);

    /// <summary>Closes all files.</summary>
    public void Dispose()
    {
        disposed = true;
        files.ForEach(file => file.Dispose());
    }

    /// <summary>A folder whose weights have another name: an adapter, a diffusion model's part.</summary>
    private static Checkpoint OpenOther(string folder)
    {
        // Names that begin with a dot are files on their way.
        string[] found = Directory.EnumerateFiles(folder)
            .Where(file => !Path.GetFileName(file).StartsWith('.'))
            .Order(StringComparer.Ordinal)
            .ToArray();
        string[] indexes = found.Where(file => file.EndsWith(".safetensors" + CheckpointIndex.Suffix, StringComparison.Ordinal)).ToArray();
        if (indexes.Length == 1)
        {
            return OpenShards(folder, indexes[0]);
        }

        string[] weights = found.Where(file => file.EndsWith(".safetensors", StringComparison.Ordinal)).ToArray();
        if (weights.Length == 1 && indexes.Length == 0)
        {
            return OpenAll(folder, weights, null);
        }

        EspalierException.Require(
            weights.Length == 0,
            $"{folder} has {weights.Length} safetensors files and no {SingleFileName} or {IndexFileName} that says which belong to the model; name one file.");
        string? pickle = Array.Find(found, Pickles.IsPickle);
        throw new EspalierException(pickle is null
            ? $"{folder} has no *.safetensors file; give the folder of a model that has."
            : Pickles.Sentence(pickle));
    }

    private static Checkpoint OpenShards(string folder, string index)
    {
        IReadOnlyDictionary<string, string> weightMap = CheckpointIndex.Read(index);
        string[] shards = weightMap.Values.Distinct().Order(StringComparer.Ordinal).ToArray();
        string[] missing = shards.Where(shard => !File.Exists(Path.Combine(folder, shard))).ToArray();
        EspalierException.Require(
            missing.Length == 0,
            $"{folder} lacks {missing.Length} of the {shards.Length} files that its index names ({string.Join(", ", missing.Take(3))}); finish the download.");
        return OpenAll(folder, shards.Select(shard => Path.Combine(folder, shard)), weightMap);
    }

    internal static Checkpoint OpenAll(string folder, IEnumerable<string> paths, IReadOnlyDictionary<string, string>? weightMap)
    {
        var files = new List<SafeTensorsFile>();
        try
        {
            files.AddRange(paths.Select(SafeTensorsFile.Open));
            return new Checkpoint(folder, files, weightMap);
        }
        catch
        {
            files.ForEach(file => file.Dispose());
            throw;
        }
    }

    private SafeTensorsFile Find(string name)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        return fileOf.TryGetValue(name, out SafeTensorsFile? file)
            ? file
            : throw new EspalierException($"There is no tensor '{name}' in {Folder}{Nearest.To(name, Names)}.");
    }
}
