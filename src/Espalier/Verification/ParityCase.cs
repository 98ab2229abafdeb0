using System.Globalization;
using System.Text.Json;
using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Verification;

/// <summary>One reference case: an operation, its inputs and parameters, and what must come out, as read from a safetensors file.</summary>
public sealed class ParityCase
{
    private readonly JsonElement _parameters;
    private readonly Dictionary<string, Tensor> _inputs;

    private ParityCase(string path, string system, string op, JsonElement parameters, double rtol, double atol, Dictionary<string, Tensor> inputs, Dictionary<string, Tensor> expected)
    {
        (FilePath, System, Op, Rtol, Atol, Expected) = (path, system, op, rtol, atol, expected);
        (_parameters, _inputs) = (parameters, inputs);
    }

    /// <summary>The file.</summary>
    public string FilePath { get; }

    /// <summary>The folder of the file, which relative parameters (a checkpoint) start from.</summary>
    public string Folder => Path.GetDirectoryName(Path.GetFullPath(FilePath))!;

    /// <summary>The system that the case counts for ("wanda").</summary>
    public string System { get; }

    /// <summary>The operation's full name ("wanda.mask").</summary>
    public string Op { get; }

    /// <summary>The relative tolerance.</summary>
    public double Rtol { get; }

    /// <summary>The absolute tolerance.</summary>
    public double Atol { get; }

    /// <summary>The names of the inputs, without their prefix; the two halves of a complex one are one name.</summary>
    public IReadOnlyCollection<string> InputNames => _inputs.Keys;

    /// <summary>What must come out, by name without prefix; complex where the file has two halves.</summary>
    public IReadOnlyDictionary<string, Tensor> Expected { get; }

    /// <summary>Whether the case has an input of this name.</summary>
    public bool Has(string name) => _inputs.ContainsKey(name);

    /// <summary>An input. It belongs to the case; an operation that changes it works on a copy.</summary>
    /// <exception cref="EspalierException">When the case has none of this name.</exception>
    public Tensor Input(string name) => Optional(name)
        ?? throw new EspalierException($"The case has no input 'in.{name}'; it has {string.Join(", ", _inputs.Keys)}.");

    /// <summary>An input, or null when the case has none of this name.</summary>
    public Tensor? Optional(string name) => _inputs.GetValueOrDefault(name);

    /// <summary>The numbered inputs "name0", "name1" and so on, up to the first that is not there.</summary>
    public IReadOnlyList<Tensor> Numbered(string name)
    {
        var found = new List<Tensor>();
        while (_inputs.TryGetValue($"{name}{found.Count.ToString(CultureInfo.InvariantCulture)}", out Tensor? next))
        {
            found.Add(next);
        }

        return found;
    }

    /// <summary>Whether the parameters name this.</summary>
    public bool HasParameter(string name) => _parameters.TryGetProperty(name, out JsonElement value) && value.ValueKind is not JsonValueKind.Null;

    /// <summary>The parameter as it stands in the file.</summary>
    /// <exception cref="EspalierException">When it is missing.</exception>
    public JsonElement Raw(string name) => HasParameter(name)
        ? _parameters.GetProperty(name)
        : throw new EspalierException($"The case has no parameter '{name}'.");

    /// <summary>A parameter as a number, a word, a switch or an array of these.</summary>
    /// <exception cref="EspalierException">When it is missing or of another kind.</exception>
    public T Parameter<T>(string name)
    {
        try
        {
            JsonElement value = Raw(name);

            // A whole number may be written as 2.0, a switch as 0 or 1.
            return typeof(T) == typeof(int) || typeof(T) == typeof(long)
                    ? (T)Convert.ChangeType(checked((long)value.GetDouble()), typeof(T), CultureInfo.InvariantCulture)
                : typeof(T) == typeof(bool) && value.ValueKind is JsonValueKind.Number ? (T)(object)(value.GetDouble() != 0)
                : value.Deserialize<T>()!;
        }
        catch (Exception fault) when (fault is JsonException or InvalidOperationException or OverflowException)
        {
            throw new EspalierException($"The parameter '{name}' is {_parameters.GetProperty(name).GetRawText()}, which is no {typeof(T).Name}.", fault);
        }
    }

    /// <summary>A parameter, or a default when it is missing or null.</summary>
    public T Parameter<T>(string name, T fallback) => HasParameter(name) ? Parameter<T>(name) : fallback;

    /// <summary>Reads a case; its tensors live in the caller's scope.</summary>
    /// <param name="path">A safetensors file.</param>
    /// <returns>The case, or null when the file's metadata names no operation: then it is none.</returns>
    /// <exception cref="EspalierException">When the file is damaged or its metadata incomplete.</exception>
    public static ParityCase? Read(string path)
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(path);
        if (!file.Metadata.TryGetValue("op", out string? op))
        {
            return null;
        }

        JsonElement parameters;
        try
        {
            parameters = JsonDocument.Parse(file.Metadata.GetValueOrDefault("params", "{}")).RootElement;
        }
        catch (JsonException fault)
        {
            throw new EspalierException($"The parameters of {path} are no JSON ({fault.Message}).", fault);
        }

        return new ParityCase(path, file.Metadata.GetValueOrDefault("system", op.Split('.')[0]), op, parameters,
            Tolerance(file, "rtol", path), Tolerance(file, "atol", path), ReadAll(file, "in."), ReadAll(file, "out."));
    }

    /// <summary>The system of a file, from its metadata alone; null when it is no case.</summary>
    internal static string? SystemOf(string path)
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(path);
        return file.Metadata.TryGetValue("op", out string? op) ? file.Metadata.GetValueOrDefault("system", op.Split('.')[0]) : null;
    }

    private static double Tolerance(SafeTensorsFile file, string name, string path)
    {
        string text = file.Metadata.GetValueOrDefault(name, "0");
        EspalierException.Require(double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double value) && value >= 0,
            $"The {name} of {path} is '{text}', which is no tolerance.");
        return value;
    }

    private static Dictionary<string, Tensor> ReadAll(SafeTensorsFile file, string prefix)
    {
        var read = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        foreach (string name in file.Names.Where(n => n.StartsWith(prefix, StringComparison.Ordinal)))
        {
            string bare = name[prefix.Length..];
            if (bare.EndsWith(".re", StringComparison.Ordinal) && file.Contains($"{name[..^3]}.im"))
            {
                using Tensor real = file.Read(name);
                using Tensor imaginary = file.Read($"{name[..^3]}.im");
                read[bare[..^3]] = complex(real, imaginary);
            }
            else if (!(bare.EndsWith(".im", StringComparison.Ordinal) && file.Contains($"{name[..^3]}.re")))
            {
                read[bare] = file.Read(name);
            }
        }

        return read;
    }
}
