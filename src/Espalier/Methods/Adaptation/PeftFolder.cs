using System.Text.Json;
using System.Text.Json.Nodes;
using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>LoRA as Python PEFT stores it: adapter_config.json and adapter_model.safetensors, keys "base_model.model.MODULE.lora_A.weight".</summary>
internal static class PeftFolder
{
    /// <summary>The tensors' file.</summary>
    public const string WeightsName = "adapter_model.safetensors";

    private const string Prefix = "base_model.model.", MaskedNote = "espalier.masked";

    /// <summary>Writes a run's adapters and the parameters that it trained whole.</summary>
    public static void Save(string folder, LoraRun run)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        var tensors = new List<(string, Tensor)>();
        foreach ((NetWeight target, ILinearAdapter adapter) in run.Targets.Zip(run.Adapters))
        {
            var lora = (Retraining.LowRankAdapter)adapter;
            // A convolution's A is one with the layer's kernel, its B a 1 × 1.
            long[] shape = target.Value.shape;
            tensors.Add(($"{Prefix}{target.Module}.lora_A.weight", target.IsConvolution ? lora.A.view(-1, shape[1], shape[2], shape[3]) : lora.A));
            tensors.Add(($"{Prefix}{target.Module}.lora_B.weight", target.IsConvolution ? lora.B.view(shape[0], -1, 1, 1) : lora.B));
        }

        (string bias, string[] modules) = Whole(run);
        // PEFT wants a module that it saves whole to be complete.
        IEnumerable<(string Name, Parameter Value)> whole = run.Context.Parameters.Where(p => run.Whole.Any(w => w.Name == p.Name) || modules.Contains(Owner(p.Name)));
        // PEFT wraps what carries an adapter: such a map's own bias lies one module deeper.
        HashSet<string> wrapped = [.. run.Targets.Select(t => t.Module)];
        tensors.AddRange(whole.Select(w => (Prefix + (wrapped.Contains(Owner(w.Name)) ? $"{Owner(w.Name)}.base_layer{w.Name[Owner(w.Name).Length..]}" : w.Name), (Tensor)w.Value)));
        IEnumerable<string> masked = run.Targets.Zip(run.Adapters).Where(t => t.Second.KeepsZeros).Select(t => t.First.Module);
        SafeTensorsFile.Save(Path.Combine(folder, WeightsName), tensors, new Dictionary<string, string> { ["format"] = "pt", [MaskedNote] = string.Join('\n', masked) });
        AtomicFile.WriteText(Path.Combine(folder, AdapterFile.PeftConfigName), Config(run, bias, modules).ToJsonString(new JsonSerializerOptions { WriteIndented = true }) + "\n");
    }

    /// <summary>Puts a saved adapter on a net.</summary>
    /// <param name="context">The net, with the folder in <see cref="AdaptationContext.Saved"/>.</param>
    /// <param name="defaults">What the configuration does not say.</param>
    /// <exception cref="EspalierException">Where the files say what this version does not do, or do not fit the net.</exception>
    public static LoraRun Open(AdaptationContext context, Lora defaults)
    {
        string folder = context.Saved!, path = Path.Combine(folder, WeightsName);
        PeftConfig config = PeftConfig.Read(Path.Combine(folder, AdapterFile.PeftConfigName));
        EspalierException.Require(File.Exists(path), File.Exists(Path.Combine(folder, "adapter_model.bin"))
            ? $"{folder} stores its tensors in adapter_model.bin, a pickle that could run code; save it again with safe_serialization=True."
            : $"{folder} has a configuration but no {WeightsName}.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using SafeTensorsFile file = SafeTensorsFile.Open(path);
        string[] masked = file.Metadata.GetValueOrDefault(MaskedNote, "").Split('\n', StringSplitOptions.RemoveEmptyEntries);
        var (pairs, others) = Sort(file, path);
        var targets = new List<NetWeight>();
        var adapters = new List<ILinearAdapter>();
        try
        {
            foreach (NetWeight target in context.Weights)
            {
                if (pairs.Keys.FirstOrDefault(m => Same(m, target.Module)) is { } module)
                {
                    targets.Add(target);
                    adapters.Add(Adapter(context, config, target, Read(file, pairs[module], module, path), masked.Contains(target.Module)));
                    pairs.Remove(module);
                }
            }

            EspalierException.Require(pairs.Count == 0, $"{path} has an adapter for {pairs.Keys.FirstOrDefault()}, which is no linear map or convolution of this net; it belongs to another one.");
            IReadOnlyList<(string Name, Parameter Value)> whole = TakeWhole(context, file, others, path);
            EspalierException.Require(targets.Count + whole.Count > 0, $"{path} has no adapter for any weight of this net.");
            Lora method = defaults with { Rank = config.Rank, Alpha = config.Alpha, RankStabilised = config.RankStabilised, Targets = [.. targets.Select(t => t.Module)], Train = [.. whole.Select(w => w.Name)] };
            // One that was trained without masks must not be masked behind the user's back: merging it refuses.
            return new LoraRun(method, masked.Length > 0 ? context : context with { Masks = new Dictionary<string, Sparsity.SparsityMask>() }, targets, adapters, whole);
        }
        catch
        {
            adapters.ForEach(a => a.Dispose());
            throw;
        }
    }

    private static ILinearAdapter Adapter(AdaptationContext context, PeftConfig config, NetWeight target, (Tensor A, Tensor B) factors, bool masked)
    {
        int rank = config.RankOf(target.Module);
        Tensor a = factors.A.flatten(1), b = factors.B.flatten(1);
        EspalierException.Require(a.shape[0] == rank, $"{AdapterFile.PeftConfigName} gives {target.Module} the rank {rank}, but its lora_A has {a.shape[0]} rows; the two files do not belong together.");
        double alpha = config.AlphaOf(target.Module), strength = config.RankStabilised ? alpha * Math.Sqrt(rank) : alpha;
        Tensor matrix = target.Matrix();
        EspalierException.Require(!masked || context.Masks.ContainsKey(target.Name), $"The adapter of {target.Module} was trained under the mask of a pruned base, and this net has no masks; use it with the net that it was trained on.");
        Tensor keep = context.Keep(target) ?? Retraining.LowRankAdapter.Dense(matrix);
        return masked ? new Retraining.MaskLoraAdapter(matrix, a, b, strength, keep, target.Name) : new Retraining.LoraAdapter(matrix, a, b, strength, keep, target.Name);
    }

    private static (Tensor A, Tensor B) Read(SafeTensorsFile file, Dictionary<string, string> pair, string module, string path)
    {
        EspalierException.Require(pair.ContainsKey("lora_A") && pair.ContainsKey("lora_B"), $"{path} has only one of lora_A and lora_B for {module}; it is incomplete.");
        return (file.Read(pair["lora_A"]).to(ScalarType.Float32), file.Read(pair["lora_B"]).to(ScalarType.Float32));
    }

    /// <summary>The keys of factors by module, and all others.</summary>
    private static (Dictionary<string, Dictionary<string, string>> Pairs, List<string> Others) Sort(SafeTensorsFile file, string path)
    {
        var pairs = new Dictionary<string, Dictionary<string, string>>(StringComparer.Ordinal);
        var rest = new List<string>();
        foreach (string key in file.Names)
        {
            string name = key.StartsWith(Prefix, StringComparison.Ordinal) ? key[Prefix.Length..] : key;
            string? odd = ((string[])["lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "lora_B.bias"]).FirstOrDefault(o => name.Contains($".{o}", StringComparison.Ordinal));
            EspalierException.Require(odd is null, $"{path} holds {key}; {odd} is a kind of LoRA that espalier does not apply (adapters of linear maps and convolutions are), so this adapter would be incomplete.");
            int at = Math.Max(name.IndexOf(".lora_A.", StringComparison.Ordinal), name.IndexOf(".lora_B.", StringComparison.Ordinal));
            if (at < 0)
            {
                rest.Add(key);
                continue;
            }

            if (!pairs.TryGetValue(name[..at], out Dictionary<string, string>? pair))
            {
                pairs[name[..at]] = pair = [];
            }

            EspalierException.Require(pair.TryAdd(name.Substring(at + 1, "lora_A".Length), key), $"{path} holds several adapters for {name[..at]}; save one adapter a folder.");
        }

        return (pairs, rest);
    }

    private static List<(string Name, Parameter Value)> TakeWhole(AdaptationContext context, SafeTensorsFile file, List<string> keys, string path)
    {
        var whole = new List<(string Name, Parameter Value)>();
        var values = new List<Tensor>();
        foreach (string key in keys)
        {
            string name = (key.StartsWith(Prefix, StringComparison.Ordinal) ? key[Prefix.Length..] : key).Replace(".modules_to_save.", ".", StringComparison.Ordinal).Replace(".base_layer.", ".", StringComparison.Ordinal);
            (string own, Parameter value) = context.Parameters.FirstOrDefault(p => Same(p.Name, name));
            EspalierException.Require(own is not null, $"{path} holds {key}, which is no parameter of this net{(name.Contains("lm_head", StringComparison.Ordinal) ? " (its head is tied to the token table)" : "")}.");
            Tensor saved = file.Read(key);
            EspalierException.Require(saved.shape.AsSpan().SequenceEqual(value.shape), $"{key} in {path} is [{string.Join(", ", saved.shape)}], the net's {own} [{string.Join(", ", value.shape)}].");
            values.Add(saved);
            whole.Add((own, value));
        }

        foreach (((_, Parameter value), Tensor saved) in whole.Zip(values))
        {
            value.copy_(saved);
        }

        return whole;
    }

    /// <summary>How PEFT says what is trained whole: its word for biases, or modules.</summary>
    private static (string Bias, string[] Modules) Whole(LoraRun run)
    {
        string[] names = [.. run.Whole.Select(w => w.Name)];
        string[] biases = [.. run.Context.Parameters.Select(p => p.Name).Where(n => n.EndsWith(".bias", StringComparison.Ordinal))];
        bool all = names.Length > 0 && biases.Length > 0 && biases.All(names.Contains);
        return (all ? "all" : "none", [.. (all ? names.Except(biases) : names).Select(Owner).Distinct()]);
    }

    private static JsonObject Config(LoraRun run, string bias, string[] modules)
    {
        Lora method = run.Method;
        bool turned = run.Targets.Any(t => t.InputsFirst);
        var json = new JsonObject
        {
            ["alpha_pattern"] = new JsonObject(),
            ["auto_mapping"] = null,
            ["base_model_name_or_path"] = run.Context.Origin,
            ["bias"] = bias,
            ["fan_in_fan_out"] = turned,
            ["inference_mode"] = true,
            ["init_lora_weights"] = method.Init is LoraInit.Gaussian ? "gaussian" : true,
            ["layers_pattern"] = null,
            ["layers_to_transform"] = null,
            ["lora_alpha"] = method.Alpha == Math.Floor(method.Alpha) ? (JsonNode)(long)method.Alpha : method.Alpha,
            ["lora_dropout"] = method.Dropout,
            ["modules_to_save"] = modules.Length == 0 ? null : new JsonArray([.. modules.Select(m => (JsonNode)m)]),
            ["peft_type"] = "LORA",
            ["r"] = method.Rank,
            ["rank_pattern"] = new JsonObject(),
            ["revision"] = null,
            // Whole names: an end of a name could name more than what was adapted.
            ["target_modules"] = new JsonArray([.. run.Targets.Select(t => (JsonNode)t.Module)]),
            ["task_type"] = run.Context.Language is null ? null : "CAUSAL_LM",
            ["use_rslora"] = method.RankStabilised,
        };
        Patterns(run, json);
        return json;
    }

    // Adapters that were opened may each have a rank and strength of their own.
    private static void Patterns(LoraRun run, JsonObject json)
    {
        foreach ((NetWeight target, ILinearAdapter adapter) in run.Targets.Zip(run.Adapters))
        {
            var lora = (Retraining.LowRankAdapter)adapter;
            long rank = lora.A.shape[0];
            double alpha = Math.Round(lora.Scaling * (run.Method.RankStabilised ? Math.Sqrt(rank) : rank), 9);
            if (rank != run.Method.Rank)
            {
                json["rank_pattern"]![target.Module] = rank;
            }

            if (alpha != Math.Round(run.Method.Alpha, 9))
            {
                json["alpha_pattern"]![target.Module] = alpha;
            }
        }
    }

    private static string Owner(string parameter) => parameter[..Math.Max(0, parameter.LastIndexOf('.'))];

    // A checkpoint may leave out the prefix that its class gives ("transformer."), or have one of its own.
    private static bool Same(string theirs, string ours) => theirs == ours || theirs.EndsWith("." + ours, StringComparison.Ordinal) || ours.EndsWith("." + theirs, StringComparison.Ordinal);
}
