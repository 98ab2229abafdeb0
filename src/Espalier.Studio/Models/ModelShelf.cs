using System.Collections.Concurrent;
using System.Security.Cryptography;
using System.Text;
using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Sparsity.Packed;

namespace Espalier.Studio.Models;

/// <summary>A model that the studio may open.</summary>
/// <param name="Key">What addresses call it; never a path.</param>
/// <param name="Name">What people call it.</param>
/// <param name="Kind">The architecture ("llama").</param>
/// <param name="Vision">Whether it reads images.</param>
/// <param name="Place">Where it comes from ("shipped", "hub", "run", "folder").</param>
/// <param name="Bytes">The bytes of its tensors' files.</param>
/// <param name="Changed">When it was last written.</param>
public sealed record ModelCard(string Key, string Name, string Kind, bool Vision, string Place, long Bytes, DateTimeOffset Changed);

/// <summary>One tensor.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Type">Its element type.</param>
/// <param name="Shape">Its dimensions.</param>
/// <param name="Parameters">Its elements.</param>
/// <param name="Zeros">How many are 0.</param>
public sealed record TensorCard(string Name, string Type, IReadOnlyList<long> Shape, long Parameters, long Zeros);

/// <summary>A model in full.</summary>
/// <param name="Model">What it is.</param>
/// <param name="Layers">Its blocks, or of a vision net its layers with weights.</param>
/// <param name="Width">The width of its hidden states; null for a vision net.</param>
/// <param name="Heads">Query heads of a block; null for a vision net.</param>
/// <param name="Vocabulary">Its tokens; null for a vision net.</param>
/// <param name="Context">The longest text it reads; null for a vision net.</param>
/// <param name="Parameters">Elements of all tensors.</param>
/// <param name="Zeros">How many of them are 0.</param>
/// <param name="Tensors">All tensors in the order of the file.</param>
public sealed record ModelDetail(ModelCard Model, int Layers, int? Width, int? Heads, int? Vocabulary, int? Context, long Parameters, long Zeros, IReadOnlyList<TensorCard> Tensors);

/// <summary>The models of this machine that the studio may show: requests name them by key, and a key stands for a folder that was found here.</summary>
internal sealed class ModelShelf(StudioOptions options)
{
    private const int MostModels = 500;

    private readonly ConcurrentDictionary<string, (DateTime Written, ModelDetail Detail)> _details = new(StringComparer.Ordinal);
    private readonly SemaphoreSlim _counting = new(1);

    /// <summary>Folders of runs' outputs, told by the runs' page.</summary>
    public Func<IEnumerable<(string Folder, string Name)>> Outputs { get; set; } = () => [];

    /// <summary>All models; those that a folder holds now.</summary>
    public IReadOnlyList<ModelCard> All() => [.. Found().Select(f => f.Card)];

    /// <summary>The folder of a key.</summary>
    /// <exception cref="EspalierException">When no model of this machine has it.</exception>
    public string FolderOf(string key) => Found().FirstOrDefault(f => f.Card.Key == key).Folder
        ?? throw new EspalierException("There is no such model here any more; the page Models lists all.");

    /// <summary>The card of a key.</summary>
    /// <exception cref="EspalierException">When no model of this machine has it.</exception>
    public ModelCard Card(string key) => Found().FirstOrDefault(f => f.Card.Key == key).Card
        ?? throw new EspalierException("There is no such model here any more; the page Models lists all.");

    /// <summary>The key that a folder has, if it is a model.</summary>
    public static string KeyOf(string folder)
    {
        string full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder));
        return Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(full)))[..12];
    }

    /// <summary>Everything of a model, its zeros counted once for as long as its files stay the same.</summary>
    public async Task<ModelDetail> DetailAsync(string key, CancellationToken cancellation)
    {
        (string folder, ModelCard card) = Found().FirstOrDefault(f => f.Card.Key == key);
        EspalierException.Require(folder is not null, "There is no such model here any more; the page Models lists all.");
        DateTime written = card.Changed.UtcDateTime;
        if (_details.TryGetValue(key, out var known) && known.Written == written)
        {
            return known.Detail;
        }

        await _counting.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            ModelDetail detail = await Task.Run(() => Read(folder!, card, cancellation), cancellation).ConfigureAwait(false);
            _details[key] = (written, detail);
            return detail;
        }
        finally
        {
            _counting.Release();
        }
    }

    /// <summary>Opens a model's tensors for one look.</summary>
    public T Look<T>(string key, Func<ITensorSource, T> look)
    {
        ITensorSource source = PackedSource.OpenAny(FolderOf(key));
        using var opened = source as IDisposable;
        return look(source);
    }

    private static ModelDetail Read(string folder, ModelCard card, CancellationToken cancellation)
    {
        ITensorSource source = PackedSource.OpenAny(folder);
        using var opened = source as IDisposable;
        var tensors = new List<TensorCard>();
        foreach (TensorInfo info in source.Names.Select(source.Info))
        {
            cancellation.ThrowIfCancellationRequested();
            tensors.Add(new TensorCard(info.Name, info.ElementType, info.Shape, info.ElementCount, ZeroCensus.Zeros(source, info.Name)));
        }

        (long parameters, long zeros) = (tensors.Sum(t => t.Parameters), tensors.Sum(t => t.Zeros));
        if (card.Vision)
        {
            using VisionModel net = VisionModel.Outline(VisionConfig.Load(folder));
            return new ModelDetail(card, net.Weights.Count, null, null, null, null, parameters, zeros, tensors);
        }

        ModelConfig config = ModelConfig.Load(folder);
        return new ModelDetail(card, config.LayerCount, config.HiddenSize, config.HeadCount, config.VocabSize, config.MaxPositions, parameters, zeros, tensors);
    }

    private IEnumerable<(string Folder, ModelCard Card)> Found() =>
        Places().Select(p => (Folder: Path.TrimEndingDirectorySeparator(Path.GetFullPath(p.Folder)), p.Name, p.Place)).DistinctBy(p => p.Folder, StringComparer.Ordinal)
            .Select(p => (p.Folder, Card: Describe(p.Folder, p.Name, p.Place))).Where(p => p.Card is not null).Take(MostModels).Select(p => (p.Folder, p.Card!));

    private IEnumerable<(string Folder, string Name, string Place)> Places()
    {
        yield return (Assets.DefaultModel, "default model", "shipped");
        foreach ((string folder, string name) in Outputs())
        {
            yield return (folder, name, "run");
        }

        foreach (string root in options.ModelFolders.Where(Directory.Exists))
        {
            yield return (root, Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(root))), "folder");
            foreach (string folder in Within(root))
            {
                yield return (folder, Path.GetRelativePath(root, folder), "folder");
            }
        }

        string cache = HubOptions.FromEnvironment().CacheFolder;
        foreach (string repository in Directory.Exists(cache) ? Directory.EnumerateDirectories(cache, "models--*").Order(StringComparer.Ordinal) : Enumerable.Empty<string>())
        {
            string snapshots = Path.Combine(repository, "snapshots");
            foreach (string snapshot in Directory.Exists(snapshots) ? Directory.EnumerateDirectories(snapshots) : [])
            {
                yield return (snapshot, Path.GetFileName(repository)["models--".Length..].Replace("--", "/", StringComparison.Ordinal), "hub");
            }
        }
    }

    private static IEnumerable<string> Within(string root) => Directory.EnumerateDirectories(root, "*", new EnumerationOptions
    {
        RecurseSubdirectories = true,
        MaxRecursionDepth = 2,
        IgnoreInaccessible = true,
        AttributesToSkip = FileAttributes.Hidden | FileAttributes.ReparsePoint,
    }).Order(StringComparer.Ordinal);

    private static ModelCard? Describe(string folder, string name, string place)
    {
        string file = Path.Combine(folder, ModelConfig.FileName);
        if (!File.Exists(file))
        {
            return null;
        }

        try
        {
            bool vision = VisionConfig.IsVision(folder);
            string kind = vision ? VisionConfig.Load(folder).ModelType : ModelConfig.Load(folder).ModelType;
            FileInfo[] weights = [.. new DirectoryInfo(folder).EnumerateFiles("*.safetensors").Select(f => f.ResolveLinkTarget(returnFinalTarget: true) is FileInfo target ? target : f)];
            return weights.Length == 0 ? null
                : new ModelCard(KeyOf(folder), name, kind, vision, place, weights.Sum(w => w.Length), new DateTimeOffset(weights.Max(w => w.LastWriteTimeUtc), TimeSpan.Zero));
        }
        catch (Exception fault) when (fault is EspalierException or IOException or UnauthorizedAccessException or System.Text.Json.JsonException)
        {
            // A folder that is no model of ours is not listed.
            return null;
        }
    }
}
