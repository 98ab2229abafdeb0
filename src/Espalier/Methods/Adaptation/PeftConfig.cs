using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Espalier.Runtime;

namespace Espalier.Methods.Adaptation;

/// <summary>What PEFT's adapter_config.json says of a LoRA or a DoRA, which PEFT counts as one. What would change the result and is not understood is refused; what only says how it was trained is passed over.</summary>
internal sealed class PeftConfig
{
    private static readonly string[] understood = ["peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights", "fan_in_fan_out", "target_modules", "modules_to_save"];

    /// <summary>Keys of training and bookkeeping: they change nothing once the tensors are there.</summary>
    private static readonly string[] passedOver =
    [
        "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_version", "lora_dropout", "layers_to_transform", "layers_pattern", "exclude_modules",
        "megatron_core", "qalora_group_size", "eva_config", "loftq_config", "runtime_config", "ensure_weight_tying", "corda_config", "arrow_config", "lora_ga_config",
    ];

    private readonly JsonObject _json;
    private readonly string _path;

    private PeftConfig(JsonObject json, string path) => (_json, _path) = (json, path);

    /// <summary>r where no pattern says another.</summary>
    public int Rank => (int)Number("r", 8);

    /// <summary>alpha where no pattern says another.</summary>
    public double Alpha => Number("lora_alpha", 8);

    /// <summary>Whether the factor is alpha/√r.</summary>
    public bool RankStabilised => Flag("use_rslora");

    /// <summary>Whether it is a DoRA.</summary>
    public bool IsDora => Flag("use_dora");

    /// <summary>Reads and checks it.</summary>
    /// <exception cref="EspalierException">When it is no JSON, no LoRA, or one of a kind that is not understood.</exception>
    public static PeftConfig Read(string path)
    {
        JsonObject? json;
        try
        {
            json = JsonNode.Parse(File.ReadAllText(path)) as JsonObject;
        }
        catch (JsonException fault)
        {
            throw new EspalierException($"{path} is not readable JSON ({fault.Message.TrimEnd('.')}).", fault);
        }

        EspalierException.Require(json is not null, $"{path} is not the description of an adapter.");
        var config = new PeftConfig(json, path);
        string type = json["peft_type"] is JsonValue kind && kind.TryGetValue(out string? word) ? word : "";
        EspalierException.Require(type == "LORA", $"{path} describes an adapter of the type '{type}'; espalier reads PEFT's LORA.");
        foreach ((string key, JsonNode? value) in json)
        {
            EspalierException.Require(understood.Contains(key) || passedOver.Contains(key) || Neutral(value),
                $"{path} sets {key} to {value?.ToJsonString()}, which espalier does not apply, so the adapter would compute something else; merge it in Python, or train it without.");
        }

        EspalierException.Require(config.IsDora || Neutral(json["use_dora"]), $"{path}: use_dora is {json["use_dora"]?.ToJsonString()}; it must be true or false.");
        string start = json["init_lora_weights"] is JsonValue init && init.TryGetValue(out string? name) ? name : "";
        EspalierException.Require(start is "" or "gaussian" or "eva" or "orthogonal",
            $"{path} starts from '{start}', which changes the base weights as well; convert the adapter in Python (save_pretrained with path_initial_model_for_weight_conversion) and read the result.");
        EspalierException.Require(config.Rank >= 1 && config.Alpha > 0, string.Create(CultureInfo.InvariantCulture, $"{path} gives a rank of {config.Rank} and an alpha of {config.Alpha}; both must be positive."));
        return config;
    }

    /// <summary>The rank of a module: the first pattern that names it, or else r.</summary>
    public int RankOf(string module) => (int)(Pattern("rank_pattern", module) ?? Rank);

    /// <summary>The alpha of a module.</summary>
    public double AlphaOf(string module) => Pattern("alpha_pattern", module) ?? Alpha;

    private static bool Neutral(JsonNode? value) => value switch
    {
        null => true,
        JsonArray list => list.Count == 0,
        JsonObject map => map.Count == 0,
        JsonValue one => one.GetValueKind() switch
        {
            JsonValueKind.False => true,
            JsonValueKind.Number => one.GetValue<double>() == 0,
            JsonValueKind.String => one.GetValue<string>() is "" or "none",
            _ => false,
        },
        _ => false,
    };

    // PEFT: a key is a regular expression for the end of a name, at a dot.
    private double? Pattern(string which, string module)
    {
        foreach ((string key, JsonNode? value) in _json[which] as JsonObject ?? [])
        {
            bool matches;
            try
            {
                matches = Regex.IsMatch(module, $@"^(.*\.)?({key})$", RegexOptions.None, TimeSpan.FromSeconds(1));
            }
            catch (Exception fault) when (fault is ArgumentException or RegexMatchTimeoutException)
            {
                throw new EspalierException($"{_path}: '{key}' in {which} is no usable pattern ({fault.Message.TrimEnd('.')}).", fault);
            }

            if (matches || module.EndsWith("." + key, StringComparison.Ordinal) || key.EndsWith("." + module, StringComparison.Ordinal))
            {
                EspalierException.Require(value is JsonValue number && number.GetValueKind() is JsonValueKind.Number, $"{_path}: {which} gives '{key}' no number.");
                return value!.GetValue<double>();
            }
        }

        return null;
    }

    private double Number(string key, double otherwise)
    {
        JsonNode? value = _json[key];
        EspalierException.Require(value is null || value.GetValueKind() is JsonValueKind.Number, $"{_path}: {key} is {value?.ToJsonString()}; it must be a number.");
        return value?.GetValue<double>() ?? otherwise;
    }

    private bool Flag(string key) => _json[key]?.GetValueKind() is JsonValueKind.True;
}
