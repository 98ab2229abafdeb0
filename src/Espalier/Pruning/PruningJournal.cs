using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Espalier.Checkpoints;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>
/// The durable memory of an unfinished run: one file per finished block, and a fingerprint of plan, data and checkpoint
/// so that another run cannot pick up where this one stopped by mistake.
/// </summary>
/// <remarks>A block counts as finished when its file has its final name; the file is written aside, flushed and renamed.</remarks>
public sealed class PruningJournal : IDisposable
{
    private const string MaskPrefix = "mask/";         // final masks, packed bits
    private const string FirstMaskPrefix = "first/";   // the criterion's masks, where a repair changed them
    private const string ReportKey = "report";

    private readonly Dictionary<int, SafeTensorsFile> _open = [];

    private PruningJournal(string folder) => Folder = folder;

    /// <summary>The working folder, beside the output's files.</summary>
    public string Folder { get; }

    /// <summary>Opens the journal of an output folder, or begins one.</summary>
    /// <param name="output">The output folder of the run; its working folder is <c>.espalier-work</c> inside it.</param>
    /// <param name="fingerprint">Named parts that must be the same for work to go on.</param>
    /// <param name="fresh">Throw unfinished work away instead of resuming.</param>
    /// <exception cref="EspalierException">When unfinished work of another plan, other data or another checkpoint lies there.</exception>
    public static PruningJournal Open(string output, IReadOnlyList<(string Part, string Value)> fingerprint, bool fresh)
    {
        string folder = Path.Combine(output, ".espalier-work");
        string path = Path.Combine(folder, "journal.json");
        if (fresh && Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }

        if (File.Exists(path))
        {
            Dictionary<string, string> earlier = Read(path);
            foreach ((string part, string value) in fingerprint)
            {
                string before = earlier.GetValueOrDefault(part, "none");
                EspalierException.Require(before == value,
                    $"{output} holds an unfinished run with another {part} ({Shorten(before)}, now {Shorten(value)}); use the old one to finish it, --fresh to start over, or another --out.");
            }
        }
        else
        {
            try
            {
                Directory.CreateDirectory(folder);
                AtomicFile.WriteText(path, JsonSerializer.Serialize(fingerprint.ToDictionary(p => p.Part, p => p.Value), Indented));
            }
            catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
            {
                throw new EspalierException($"The output folder {output} cannot be written: {fault.Message}", fault);
            }
        }

        return new PruningJournal(folder);

        static string Shorten(string value) => value.Length > 60 ? value[..60] + "…" : value;
    }

    /// <summary>Whether a block is finished.</summary>
    public bool Has(int block) => File.Exists(PathOf(block));

    /// <summary>Makes a finished block durable.</summary>
    /// <param name="block">Its number.</param>
    /// <param name="tensors">Its tensors by checkpoint name.</param>
    /// <param name="stored">The element types they are stored in.</param>
    /// <param name="masks">Its masks by weight name.</param>
    /// <param name="firstMasks">The criterion's masks where a repair changed them.</param>
    /// <param name="report">What happened to it.</param>
    public void Write(
        int block,
        IReadOnlyList<(string Name, Tensor Value)> tensors,
        IReadOnlyDictionary<string, ScalarType> stored,
        IReadOnlyDictionary<string, SparsityMask> masks,
        IReadOnlyDictionary<string, SparsityMask> firstMasks,
        BlockReport report)
    {
        using var scope = NewDisposeScope();
        var all = new List<(string, Tensor)>(tensors);
        var metadata = new Dictionary<string, string> { [ReportKey] = JsonSerializer.Serialize(report) };
        SparsityMasks.Append(MaskPrefix, masks, all, metadata);
        SparsityMasks.Append(FirstMaskPrefix, firstMasks, all, metadata);
        // One tensor at a time is turned into its stored type.
        TensorInfo[] plan = [.. all.Select(t => ElementTypes.Plan(t.Item1, stored.GetValueOrDefault(t.Item1, t.Item2.dtype), t.Item2.shape))];
        using var writer = SafeTensorsWriter.Create(PathOf(block), plan, metadata);
        foreach ((string name, Tensor value) in all)
        {
            writer.Write(name, value);
        }

        writer.Commit();
    }

    /// <summary>What happened to a finished block.</summary>
    public BlockReport Report(int block) =>
        JsonSerializer.Deserialize<BlockReport>(Opened(block).Metadata[ReportKey])
        ?? throw new EspalierException($"The journal file {PathOf(block)} is damaged; delete it and run again.");

    /// <summary>The final mask of one weight of a finished block.</summary>
    public SparsityMask Mask(int block, string name) => SparsityMasks.Read(Opened(block), MaskPrefix + name);

    /// <summary>The criterion's mask of one weight of a finished block, before any repair moved a zero.</summary>
    public SparsityMask FirstMask(int block, string name) =>
        Opened(block).Contains(FirstMaskPrefix + name) ? SparsityMasks.Read(Opened(block), FirstMaskPrefix + name) : Mask(block, name);

    /// <summary>The tensors of a finished block, as stored.</summary>
    public ITensorSource Tensors(int block) => Opened(block);

    /// <summary>The names of the changed tensors of a finished block.</summary>
    public IReadOnlyList<string> TensorNames(int block) =>
        [.. Opened(block).Names.Where(n => !n.StartsWith(MaskPrefix, StringComparison.Ordinal) && !n.StartsWith(FirstMaskPrefix, StringComparison.Ordinal))];

    /// <summary>Closes the files and deletes the working folder: the run is finished.</summary>
    public void Remove()
    {
        Dispose();
        Directory.Delete(Folder, recursive: true);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (SafeTensorsFile file in _open.Values)
        {
            file.Dispose();
        }

        _open.Clear();
    }

    /// <summary>A short content hash for fingerprints and reports.</summary>
    public static string Hash(ReadOnlySpan<byte> content) => Convert.ToHexStringLower(SHA256.HashData(content))[..16];

    private static JsonSerializerOptions Indented { get; } = new() { WriteIndented = true };

    private static Dictionary<string, string> Read(string path)
    {
        try
        {
            return JsonSerializer.Deserialize<Dictionary<string, string>>(File.ReadAllText(path, Encoding.UTF8)) ?? [];
        }
        catch (JsonException fault)
        {
            throw new EspalierException($"The journal {path} is damaged ({fault.Message}); use --fresh to start over.", fault);
        }
    }

    private SafeTensorsFile Opened(int block)
    {
        if (!_open.TryGetValue(block, out SafeTensorsFile? file))
        {
            _open[block] = file = SafeTensorsFile.Open(PathOf(block));
        }

        return file;
    }

    private string PathOf(int block) => Path.Combine(Folder, $"block-{block:D5}.safetensors");
}
