using System.Text.Json;
using System.Text.Json.Nodes;
using Espalier.Catalogue;
using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>An adapter alone on the disk in our own layout: one safetensors file whose metadata names the method and its options. Methods that Python PEFT knows are stored in its layout instead.</summary>
public sealed class AdapterFile : IDisposable
{
    /// <summary>The file in an adapter's folder.</summary>
    public const string FileName = "adapter.safetensors";

    /// <summary>The description in a folder of PEFT's layout.</summary>
    public const string PeftConfigName = "adapter_config.json";

    private const string Format = "espalier-adapter-1";

    private readonly SafeTensorsFile _file;

    private AdapterFile(SafeTensorsFile file) => _file = file;

    /// <summary>The method's slug.</summary>
    public string Method => _file.Metadata["method"];

    /// <summary>The tensors' names.</summary>
    public IReadOnlyList<string> Names => _file.Names;

    /// <summary>What else the method wrote.</summary>
    public IReadOnlyDictionary<string, string> Notes => _file.Metadata;

    /// <summary>Whether a folder holds an adapter of either layout.</summary>
    /// <param name="folder">The folder.</param>
    public static bool IsAdapter(string folder) => File.Exists(Path.Combine(folder, FileName)) || File.Exists(Path.Combine(folder, PeftConfigName));

    /// <summary>Writes an adapter.</summary>
    /// <param name="folder">Its folder.</param>
    /// <param name="method">The method that made it; its options are written with it.</param>
    /// <param name="tensors">The tensors by name.</param>
    /// <param name="notes">What else opening it needs.</param>
    public static void Save(string folder, IAdaptation method, IEnumerable<(string Name, Tensor Value)> tensors, IReadOnlyDictionary<string, string>? notes = null)
    {
        var metadata = new Dictionary<string, string>(notes ?? new Dictionary<string, string>())
        {
            ["format"] = Format,
            ["method"] = SlugOf(method),
            ["options"] = OptionsBinder.Words(method).ToJsonString(),
        };
        SafeTensorsFile.Save(Path.Combine(folder, FileName), [.. tensors.Select(t => (t.Name, t.Value))], metadata);
    }

    /// <summary>Opens an adapter in our layout.</summary>
    /// <param name="folder">Its folder.</param>
    /// <exception cref="EspalierException">When there is none or it is damaged.</exception>
    public static AdapterFile Open(string folder)
    {
        string path = Path.Combine(folder, FileName);
        EspalierException.Require(File.Exists(path), $"{folder} holds no adapter; it needs {FileName}, or {PeftConfigName} of Python PEFT.");
        SafeTensorsFile file = SafeTensorsFile.Open(path);
        if (file.Metadata.GetValueOrDefault("format") != Format || !file.Metadata.ContainsKey("method"))
        {
            file.Dispose();
            throw new EspalierException($"{path} is no adapter that espalier wrote; it has no method in its metadata.");
        }

        return new AdapterFile(file);
    }

    /// <summary>The method of a saved adapter, with the options that it was made with.</summary>
    /// <param name="folder">Its folder, in either layout.</param>
    /// <exception cref="EspalierException">When there is no adapter, or its method is unknown.</exception>
    public static IAdaptation MethodOf(string folder)
    {
        EspalierException.Require(Directory.Exists(folder), $"There is no adapter at {folder}.");
        if (!File.Exists(Path.Combine(folder, FileName)) && File.Exists(Path.Combine(folder, PeftConfigName)))
        {
            return MethodCatalogue.Default.Create<IAdaptation>(IsDora(Path.Combine(folder, PeftConfigName)) ? "dora" : "lora");
        }

        using AdapterFile file = Open(folder);
        var options = new Dictionary<string, object?>();
        try
        {
            foreach ((string name, JsonNode? value) in JsonNode.Parse(file.Notes.GetValueOrDefault("options", "{}"))!.AsObject())
            {
                options[name] = OptionsBinder.Plain(value);
            }
        }
        catch (Exception fault) when (fault is JsonException or InvalidOperationException or ArgumentException or NullReferenceException)
        {
            throw new EspalierException($"The options of the adapter in {folder} are damaged; train or download it again.", fault);
        }

        return MethodCatalogue.Default.Create<IAdaptation>(file.Method, options);
    }

    /// <summary>Reads a tensor.</summary>
    /// <param name="name">Its name.</param>
    /// <returns>In the caller's scope.</returns>
    public Tensor Read(string name) => _file.Read(name);

    /// <summary>The tensors below a stem ("model.layers.0.mlp.up_proj" gives "lora_A"), read, by the rest of their names.</summary>
    /// <param name="stem">The stem, without its dot.</param>
    /// <returns>In the caller's scope.</returns>
    public IReadOnlyDictionary<string, Tensor> Below(string stem) => _file.Names.Where(n => n.StartsWith(stem + ".", StringComparison.Ordinal))
        .ToDictionary(n => n[(stem.Length + 1)..], n => _file.Read(n), StringComparer.Ordinal);

    /// <summary>The slug of a method.</summary>
    internal static string SlugOf(IAdaptation method) =>
        MethodCatalogue.Default.Entries.FirstOrDefault(e => e.Implementation == method.GetType())?.Slug ?? method.GetType().Name.ToLowerInvariant();

    // PEFT counts DoRA among its LoRAs. A damaged description is refused with its reason where it is opened.
    private static bool IsDora(string path)
    {
        try
        {
            using JsonDocument description = JsonDocument.Parse(File.ReadAllText(path));
            return description.RootElement.ValueKind is JsonValueKind.Object && description.RootElement.TryGetProperty("use_dora", out JsonElement word) && word.ValueKind is JsonValueKind.True;
        }
        catch (JsonException)
        {
            return false;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();
}
