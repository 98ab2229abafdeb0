using System.Text.RegularExpressions;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Checkpoints;

/// <summary>
/// Writes a model's tensors into a folder, as one safetensors file or as shards with an index, all or nothing: until
/// <see cref="Commit"/> has returned, whatever checkpoint was in the folder stays readable, also after a crash.
/// </summary>
/// <remarks>
/// <para>The folder may be the one that the tensors are being read from.</para>
/// <para>One file switches the folder from old to new: <c>model.safetensors</c> appearing or vanishing, or the index being replaced.
/// New shards never take the name of a file that the old index still needs; they get the usual names once it does not.</para>
/// </remarks>
public sealed partial class CheckpointWriter : IDisposable
{
    /// <summary>The largest shard, in bytes, when nothing else is said: 5 GB, as in other tools.</summary>
    public const long DefaultShardBytes = 5_000_000_000;

    private readonly IFileLayer layer;
    private readonly List<SafeTensorsWriter> shards = [];
    private readonly Dictionary<string, int> shardOf = new(StringComparer.Ordinal);
    private readonly long totalBytes;

    private CheckpointWriter(
        string folder, IReadOnlyList<TensorInfo> plan, long maxShardBytes, IReadOnlyDictionary<string, string>? metadata, IFileLayer layer)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(maxShardBytes);
        Folder = folder;
        this.layer = layer;
        metadata ??= new Dictionary<string, string> { ["format"] = "pt" };
        List<List<TensorInfo>> parts = Split(plan, maxShardBytes);
        totalBytes = plan.Sum(info => info.ByteCount);
        for (int i = 0; i < parts.Count; i++)
        {
            foreach (TensorInfo info in parts[i])
            {
                EspalierException.Require(shardOf.TryAdd(info.Name, i), $"Tensor '{info.Name}' is planned twice for {folder}.");
            }
        }

        try
        {
            for (int i = 0; i < parts.Count; i++)
            {
                shards.Add(SafeTensorsWriter.Create(Path.Combine(folder, NameOf(i, parts.Count)), parts[i], metadata, layer));
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The folder that a commit changes.</summary>
    public string Folder { get; }

    /// <summary>How many files the tensors go into.</summary>
    public int ShardCount => shards.Count;

    /// <summary>Begins a checkpoint.</summary>
    /// <param name="folder">The folder; it is made when there is none.</param>
    /// <param name="plan">What will be written, in the order in which it is to lie in the files.</param>
    /// <param name="maxShardBytes">The most bytes of tensors in one file; a single larger tensor gets a file of its own.</param>
    /// <param name="metadata">Strings for the headers; null is <c>{"format": "pt"}</c>, which other tools look for.</param>
    /// <exception cref="EspalierException">When the plan names a tensor twice, or the folder has no room or cannot be written.</exception>
    public static CheckpointWriter Create(
        string folder,
        IReadOnlyList<TensorInfo> plan,
        long maxShardBytes = DefaultShardBytes,
        IReadOnlyDictionary<string, string>? metadata = null) => new(folder, plan, maxShardBytes, metadata, FileSystem.Instance);

    /// <summary>Writes one tensor, converted to the planned type; tensors come in any order.</summary>
    /// <exception cref="EspalierException">When name or shape are not the planned ones, or the disk refuses.</exception>
    public void Write(string name, Tensor tensor) => Shard(name).Write(name, tensor);

    /// <summary>Writes one tensor from its finished bytes.</summary>
    /// <exception cref="EspalierException">When name or length are not the planned ones, or the disk refuses.</exception>
    public void WriteBytes(string name, ReadOnlySpan<byte> bytes) => Shard(name).WriteBytes(name, bytes);

    /// <summary>Copies one tensor unchanged from another checkpoint.</summary>
    /// <exception cref="EspalierException">When it is stored there in another type or shape, or the disk refuses.</exception>
    public void Copy(string name, Checkpoint source) => Shard(name).Copy(name, source.FileOf(name));

    /// <summary>Opens what was written while it still has its temporary names, to look at it before <see cref="Commit"/>; to be disposed before that.</summary>
    /// <exception cref="EspalierException">When a planned tensor was not written, or the disk refuses.</exception>
    internal Checkpoint OpenPending()
    {
        shards.ForEach(shard => shard.Finish());
        return Checkpoint.OpenAll(Folder, [.. shards.Select(shard => shard.TemporaryPath)], null);
    }

    /// <summary>Puts the new checkpoint in place of the old one and removes the old one's files.</summary>
    /// <exception cref="EspalierException">When a planned tensor was not written, or the disk refuses; the old checkpoint is then still there.</exception>
    public void Commit()
    {
        shards.ForEach(shard => shard.Finish());
        HashSet<string> old = FilesInPlace();
        if (shards.Count == 1)
        {
            shards[0].Publish();
            RemoveAll(old.Append(Checkpoint.IndexFileName).Where(name => name != Checkpoint.SingleFileName));
            return;
        }

        string[] plain = Enumerable.Range(0, shards.Count).Select(i => NameOf(i, shards.Count)).ToArray();
        string[] names = plain.Any(old.Contains) ? Array.ConvertAll(plain, WithTag(Guid.NewGuid().ToString("N")[..8])) : plain;
        try
        {
            for (int i = 0; i < shards.Count; i++)
            {
                shards[i].Publish(names[i]);
            }

            PublishIndex(names);
        }
        catch
        {
            RemoveUnnamed(names);
            throw;
        }

        // From here on the new checkpoint is the one that is read: at once where the old one was sharded too,
        // with this removal where it was a single file.
        Guarded(Checkpoint.SingleFileName, () => layer.Delete(Path.Combine(Folder, Checkpoint.SingleFileName)));
        RemoveAll(old.Except(names));
        if (names != plain)
        {
            TakePlainNames(names, plain);
        }
    }

    /// <summary>Closes the writer; without a commit nothing of it remains.</summary>
    public void Dispose() => shards.ForEach(shard => shard.Dispose());

    /// <summary>Begins a checkpoint through another file layer.</summary>
    internal static CheckpointWriter Create(string folder, IReadOnlyList<TensorInfo> plan, long maxShardBytes, IFileLayer layer) =>
        new(folder, plan, maxShardBytes, null, layer);

    [GeneratedRegex(@"^model(-[0-9a-f]{8})?-\d{5}-of-\d{5}\.safetensors$")]
    private static partial Regex ShardName();

    private static string NameOf(int index, int count) =>
        count == 1 ? Checkpoint.SingleFileName : $"model-{index + 1:D5}-of-{count:D5}.safetensors";

    private static Converter<string, string> WithTag(string tag) => name => $"model-{tag}{name["model".Length..]}";

    private static List<List<TensorInfo>> Split(IReadOnlyList<TensorInfo> plan, long maxShardBytes)
    {
        var parts = new List<List<TensorInfo>> { new() };
        long inPart = 0;
        foreach (TensorInfo info in plan)
        {
            if (inPart + info.ByteCount > maxShardBytes && parts[^1].Count > 0)
            {
                parts.Add([]);
                inPart = 0;
            }

            parts[^1].Add(info);
            inPart += info.ByteCount;
        }

        return parts;
    }

    private SafeTensorsWriter Shard(string name) => shardOf.TryGetValue(name, out int shard)
        ? shards[shard]
        : throw new EspalierException($"Tensor '{name}' was not planned for {Folder}.");

    /// <summary>The weight files that lie in the folder now and that the new checkpoint takes the place of.</summary>
    private HashSet<string> FilesInPlace()
    {
        var names = Directory.EnumerateFiles(Folder)
            .Select(file => Path.GetFileName(file))
            .Where(name => ShardName().IsMatch(name) || name == Checkpoint.SingleFileName)
            .ToHashSet(StringComparer.Ordinal);
        string index = Path.Combine(Folder, Checkpoint.IndexFileName);
        if (File.Exists(index))
        {
            try
            {
                names.UnionWith(CheckpointIndex.Read(index).Values);
            }
            catch (EspalierException)
            {
                // A broken index has no files to keep alive.
            }
        }

        return names;
    }

    /// <summary>After a failed commit: shards that already have their names but that no index speaks of.</summary>
    private void RemoveUnnamed(string[] names)
    {
        string index = Path.Combine(Folder, Checkpoint.IndexFileName);
        try
        {
            IEnumerable<string> named = File.Exists(index) ? CheckpointIndex.Read(index).Values : [];
            RemoveAll(names.Except(named));
        }
        catch (EspalierException)
        {
            // The index cannot be read: better a file too many than one too few.
        }
    }

    private void PublishIndex(string[] names) => AtomicFile.Write(
        Path.Combine(Folder, Checkpoint.IndexFileName),
        stream => CheckpointIndex.Write(stream, shardOf.ToDictionary(pair => pair.Key, pair => names[pair.Value]), totalBytes),
        layer);

    /// <summary>
    /// Gives the new shards the names that everybody expects, which the old ones had: a second name each, an index that uses it,
    /// and the first names go. At every moment one of the two indexes is whole. Where the disk knows no second names, the tagged ones stay.
    /// </summary>
    private void TakePlainNames(string[] names, string[] plain)
    {
        try
        {
            for (int i = 0; i < names.Length; i++)
            {
                layer.Link(Path.Combine(Folder, names[i]), Path.Combine(Folder, plain[i]));
            }

            layer.SyncFolder(Folder);
            PublishIndex(plain);
        }
        catch (Exception fault) when (WriteFault.IsOne(fault) || fault is EspalierException)
        {
            return;
        }

        RemoveAll(names);
    }

    /// <summary>Removes files that nothing names any more; one that will not go does no harm.</summary>
    private void RemoveAll(IEnumerable<string> names)
    {
        foreach (string name in names)
        {
            try
            {
                layer.Delete(Path.Combine(Folder, name));
            }
            catch (Exception fault) when (WriteFault.IsOne(fault))
            {
                // Still open in another process; the next commit removes it.
            }
        }
    }

    private void Guarded(string name, Action action)
    {
        try
        {
            action();
        }
        catch (Exception fault) when (WriteFault.IsOne(fault))
        {
            throw WriteFault.For(Path.Combine(Folder, name), fault);
        }
    }
}
