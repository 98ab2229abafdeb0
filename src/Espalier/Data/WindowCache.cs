using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Data;

/// <summary>
/// Token windows that were drawn before, as small files in the user's cache: drawing them again would tokenise the same
/// text to the same ids. A file that is damaged or not ours is drawn anew; a folder that cannot be written costs a warning.
/// </summary>
public sealed class WindowCache
{
    private const string IdsName = "windows", KeyName = "key", ContentName = "content", WarningsName = "warnings";

    // What nobody asked for that long is removed when something new is written.
    private static readonly TimeSpan unused = TimeSpan.FromDays(30);

    /// <summary>A cache in a folder.</summary>
    /// <param name="folder">The folder; null caches nothing.</param>
    public WindowCache(string? folder) => Folder = folder;

    /// <summary>The folder; null where nothing is cached.</summary>
    public string? Folder { get; }

    /// <summary>The user's cache: <c>ESPALIER_CACHE</c> (<c>none</c> for none), else <c>espalier</c> in <c>XDG_CACHE_HOME</c> or <c>~/.cache</c>.</summary>
    public static WindowCache FromEnvironment() => From(Environment.GetEnvironmentVariable);

    internal static WindowCache From(Func<string, string?> variable)
    {
        string? Value(string name) => variable(name) is { } value && !string.IsNullOrWhiteSpace(value) ? value.Trim() : null;

        string home = Value("ESPALIER_CACHE")
            ?? Path.Combine(Value("XDG_CACHE_HOME") ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache"), "espalier");
        return new WindowCache(home == "none" ? null : Path.Combine(home, "windows"));
    }

    /// <summary>The windows of a draw: as they were drawn before, or drawn now and kept.</summary>
    /// <param name="dataset">The text; its files' places, sizes and times are part of the key, and text without files is never cached.</param>
    /// <param name="draw">What else decides the ids: tokeniser (by content), number, length, seed. The version of the code is added.</param>
    /// <param name="progress">Where warnings go, also those that the first draw gave.</param>
    /// <param name="make">Draws them: arrays of equal length.</param>
    public long[][] Get(TextDataset dataset, string draw, IProgressSink progress, Func<IProgressSink, long[][]> make)
    {
        if (Folder is null || dataset.Files.Count == 0)
        {
            return make(progress);
        }

        // The module's id changes with every change of the code, the sampler's and the tokenisers' too.
        string key = string.Join('\n', [$"{typeof(WindowCache).Module.ModuleVersionId}", dataset.Name, draw, dataset.State]);
        string path = Path.Combine(Folder, $"{Hash(Encoding.UTF8.GetBytes(key))}.safetensors");
        if (Read(path, key) is not ({ } windows, { } warnings))
        {
            var log = new WarningLog(progress);
            windows = make(log);
            Write(path, key, windows, log.Warnings, progress);
            return windows;
        }

        foreach (string warning in warnings)
        {
            progress.Warn(warning);
        }

        return windows;
    }

    private static (long[][] Windows, string[] Warnings)? Read(string path, string key)
    {
        try
        {
            if (!File.Exists(path))
            {
                return null;
            }

            using SafeTensorsFile file = SafeTensorsFile.Open(path);
            using var scope = NewDisposeScope();
            if (file.Metadata.GetValueOrDefault(KeyName) != key || !file.Contains(IdsName) || file.Info(IdsName).Shape.Count != 2)
            {
                return null;
            }

            using Tensor ids = file.Read(IdsName);
            if (Hash(ids.bytes) != file.Metadata.GetValueOrDefault(ContentName))
            {
                return null;
            }

            string[] warnings = JsonSerializer.Deserialize<string[]>(file.Metadata.GetValueOrDefault(WarningsName, "")) ?? [];
            File.SetLastWriteTimeUtc(path, DateTime.UtcNow);
            return (TokenWindows.ToArrays(ids.to(ScalarType.Int64)), warnings);
        }
        catch (Exception fault) when (fault is EspalierException or IOException or UnauthorizedAccessException or JsonException)
        {
            return null;
        }
    }

    private static void Write(string path, string key, long[][] windows, IReadOnlyList<string> warnings, IProgressSink progress)
    {
        try
        {
            string folder = Path.GetDirectoryName(path)!;
            Directory.CreateDirectory(folder);
            using var scope = NewDisposeScope();
            Tensor ids = tensor([.. windows.SelectMany(w => w).Select(id => checked((int)id))], [windows.Length, windows[0].Length], ScalarType.Int32);
            SafeTensorsFile.Save(path, [(IdsName, ids)], new Dictionary<string, string>
            {
                [KeyName] = key, [ContentName] = Hash(ids.bytes), [WarningsName] = JsonSerializer.Serialize(warnings),
            });
            foreach (FileInfo old in new DirectoryInfo(folder).EnumerateFiles("*.safetensors").Where(f => DateTime.UtcNow - f.LastWriteTimeUtc > unused))
            {
                old.Delete();
            }
        }
        catch (Exception fault) when (fault is EspalierException or IOException or UnauthorizedAccessException)
        {
            progress.Warn($"Token windows could not be kept for the next run ({fault.Message.TrimEnd('.')}); set ESPALIER_CACHE to a folder that can be written, or to none.");
        }
    }

    private static string Hash(ReadOnlySpan<byte> content) => Convert.ToHexStringLower(SHA256.HashData(content));
}
