using System.Text.Json;
using System.Text.Json.Nodes;
using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>LoRA and DoRA as Python PEFT stores them: adapter_config.json and adapter_model.safetensors, keys "base_model.model.MODULE.lora_A.weight"; a DoRA has MODULE.lora_magnitude_vector beside.</summary>
internal static class PeftFolder
{
    /// <summary>The tensors' file.</summary>
    public const string WeightsName = "adapter_model.safetensors";

    private const string Prefix = "base_model.model.", MaskedNote = "espalier.masked", A = "lora_A", B = "lora_B", Magnitude = "lora_magnitude_vector";

    /// <summary>Writes a run's adapters and the parameters that it trained whole.</summary>
    public static void Save(string folder, WeightAdaptationRun run, IPeftMethod method)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        var tensors = new List<(string, Tensor)>();
        foreach ((NetWeight target, ILinearAdapter adapter) in run.Targets.Zip(run.Adapters))
        {
            Factors factors = Factors.Of(adapter);
            // A convolution's A is one with the layer's kernel, its B a 1 × 1.
            long[] shape = target.Value.shape;
            tensors.Add(($"{Prefix}{target.Module}.{A}.weight", target.IsConvolution ? factors.A.view(-1, shape[1], shape[2], shape[3]) : factors.A));
            tensors.Add(($"{Prefix}{target.Module}.{B}.weight", target.IsConvolution ? factors.B.view(shape[0], -1, 1, 1) : factors.B));
            if (factors.Magnitude is { } magnitude)
            {
                // Without ".weight", which PEFT takes off when it saves and puts on when it loads.
                tensors.Add(($"{Prefix}{target.Module}.{Magnitude}", magnitude.view(MagnitudeShape(target))));
            }
        }

        (string bias, string[] modules) = Whole(run);
        // PEFT wants a module that it saves whole to be complete.
        IEnumerable<(string Name, Parameter Value)> whole = run.Context.Parameters.Where(p => run.Whole.Any(w => w.Name == p.Name) || modules.Contains(Owner(p.Name)));
        // PEFT wraps what carries an adapter: such a map's own bias lies one module deeper.
        HashSet<string> wrapped = [.. run.Targets.Select(t => t.Module)];
        tensors.AddRange(whole.Select(w => (Prefix + (wrapped.Contains(Owner(w.Name)) ? $"{Owner(w.Name)}.base_layer{w.Name[Owner(w.Name).Length..]}" : w.Name), (Tensor)w.Value)));
        IEnumerable<string> masked = run.Targets.Zip(run.Adapters).Where(t => t.Second.KeepsZeros).Select(t => t.First.Module);
        SafeTensorsFile.Save(Path.Combine(folder, WeightsName), tensors, new Dictionary<string, string> { ["format"] = "pt", [MaskedNote] = string.Join('\n', masked) });
        AtomicFile.WriteText(Path.Combine(folder, AdapterFile.PeftConfigName), Config(run, method, bias, modules).ToJsonString(new JsonSerializerOptions { WriteIndented = true }) + "\n");
        File.Delete(Path.Combine(folder, AdapterFile.FileName)); // an adapter that was there before would be taken for this one
    }

    /// <summary>Puts a saved adapter on a net.</summary>
    /// <param name="context">The net, with the folder in <see cref="AdaptationContext.Saved"/>.</param>
    /// <param name="defaults">What the configuration does not say, where it describes an adapter of this method.</param>
    /// <exception cref="EspalierException">Where the files say what this version does not do, or do not fit the net.</exception>
    public static WeightAdaptationRun Open(AdaptationContext context, WeightAdaptation defaults)
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
                    adapters.Add(Adapter(context, config, target, Read(file, pairs[module], module, path, config.IsDora), masked.Contains(target.Module)));
                    pairs.Remove(module);
                }
            }

            EspalierException.Require(pairs.Count == 0, $"{path} has an adapter for {pairs.Keys.FirstOrDefault()}, which is no linear map or convolution of this net; it belongs to another one.");
            IReadOnlyList<(string Name, Parameter Value)> whole = TakeWhole(context, file, others, path);
            EspalierException.Require(targets.Count + whole.Count > 0, $"{path} has no adapter for any weight of this net.");
            // One that was trained without masks must not be masked behind the user's back: merging it refuses.
            ILookup<bool, NetWeight> pruned = targets.Where(t => context.Masks.ContainsKey(t.Name)).ToLookup(t => masked.Contains(t.Module));
            AdaptationContext own = context with { Masks = pruned[true].ToDictionary(t => t.Name, t => context.Masks[t.Name]) };
            string[] modules = [.. targets.Select(t => t.Module)], trained = [.. whole.Select(w => w.Name)];
            return config.IsDora
                ? new DoraRun((defaults as Dora ?? new Dora()) with { Rank = config.Rank, Alpha = config.Alpha, RankStabilised = config.RankStabilised, Targets = modules, Train = trained }, own, targets, adapters, whole) { Unmasked = pruned[false].FirstOrDefault()?.Name }
                : new LoraRun((defaults as Lora ?? new Lora()) with { Rank = config.Rank, Alpha = config.Alpha, RankStabilised = config.RankStabilised, Targets = modules, Train = trained }, own, targets, adapters, whole);
        }
        catch
        {
            adapters.ForEach(a => a.Dispose());
            throw;
        }
    }

    private static ILinearAdapter Adapter(AdaptationContext context, PeftConfig config, NetWeight target, (Tensor A, Tensor B, Tensor? Magnitude) factors, bool masked)
    {
        int rank = config.RankOf(target.Module);
        Tensor a = factors.A.flatten(1), b = factors.B.flatten(1);
        EspalierException.Require(a.shape[0] == rank, $"{AdapterFile.PeftConfigName} gives {target.Module} the rank {rank}, but its lora_A has {a.shape[0]} rows; the two files do not belong together.");
        double alpha = config.AlphaOf(target.Module), strength = config.RankStabilised ? alpha * Math.Sqrt(rank) : alpha;
        Tensor matrix = target.Matrix();
        EspalierException.Require(!masked || context.Masks.ContainsKey(target.Name), $"The adapter of {target.Module} was trained under the mask of a pruned base, and this net has no masks; use it with the net that it was trained on.");
        if (factors.Magnitude is { } magnitude)
        {
            return Dora(target, matrix, a, b, magnitude, strength / rank);
        }

        Tensor keep = context.Keep(target) ?? Retraining.LowRankAdapter.Dense(matrix);
        return masked ? new Retraining.MaskLoraAdapter(matrix, a, b, strength, keep, target.Name) : new Retraining.LoraAdapter(matrix, a, b, strength, keep, target.Name);
    }

    // A run masks it where its module is noted as trained so.
    private static DoraAdapter Dora(NetWeight target, Tensor matrix, Tensor a, Tensor b, Tensor magnitude, double scaling)
    {
        Retraining.LowRankAdapter.CheckRank(a.shape[0], target.Rows, target.Columns, target.Name);
        EspalierException.Require(a.shape[1] == target.Columns && b.shape.AsSpan().SequenceEqual([target.Rows, a.shape[0]]),
            $"The adapter of {target.Module} has A [{string.Join(", ", a.shape)}] and B [{string.Join(", ", b.shape)}]; its weight [{target.Rows}, {target.Columns}] needs [r, {target.Columns}] and [{target.Rows}, r].");
        long[] wanted = MagnitudeShape(target);
        EspalierException.Require(magnitude.shape.AsSpan().SequenceEqual(wanted),
            $"The {Magnitude} of {target.Module} is [{string.Join(", ", magnitude.shape)}]; {(target.IsConvolution ? "this convolution" : "this linear map")} needs [{string.Join(", ", wanted)}].");
        return new DoraAdapter(a.to(matrix.device), b.to(matrix.device), magnitude.flatten().to(matrix.device), scaling);
    }

    private static long[] MagnitudeShape(NetWeight target) => target.IsConvolution ? [1, target.Rows, 1, 1] : [target.Rows];

    private static (Tensor A, Tensor B, Tensor? Magnitude) Read(SafeTensorsFile file, Dictionary<string, string> parts, string module, string path, bool dora)
    {
        EspalierException.Require(dora || !parts.ContainsKey(Magnitude), $"{path} has a {Magnitude} for {module}, which a DoRA has, but {AdapterFile.PeftConfigName} does not set use_dora; the two files do not belong together.");
        EspalierException.Require(parts.ContainsKey(A) && parts.ContainsKey(B), $"{path} has only {string.Join(" and ", parts.Keys)} for {module}, not both of {A} and {B}; it is incomplete.");
        EspalierException.Require(!dora || parts.ContainsKey(Magnitude), $"{path} has no {Magnitude} for {module}, and {AdapterFile.PeftConfigName} sets use_dora; it is incomplete.");
        return (Part(A), Part(B), dora ? Part(Magnitude) : null);

        Tensor Part(string part) => file.Read(parts[part]).to(ScalarType.Float32);
    }

    /// <summary>The keys of factors by module, and all others.</summary>
    private static (Dictionary<string, Dictionary<string, string>> Pairs, List<string> Others) Sort(SafeTensorsFile file, string path)
    {
        var pairs = new Dictionary<string, Dictionary<string, string>>(StringComparer.Ordinal);
        var rest = new List<string>();
        foreach (string key in file.Names)
        {
            string name = key.StartsWith(Prefix, StringComparison.Ordinal) ? key[Prefix.Length..] : key;
            string? odd = ((string[])["lora_embedding_A", "lora_embedding_B", "lora_B.bias"]).FirstOrDefault(o => name.Contains($".{o}", StringComparison.Ordinal));
            EspalierException.Require(odd is null, $"{path} holds {key}; {odd} is a kind of LoRA that espalier does not apply (adapters of linear maps and convolutions are), so this adapter would be incomplete.");
            string? part = ((string[])[A, B, Magnitude]).FirstOrDefault(p => $"{name}.".Contains($".{p}.", StringComparison.Ordinal));
            if (part is null)
            {
                rest.Add(key);
                continue;
            }

            string module = name[..$"{name}.".IndexOf($".{part}.", StringComparison.Ordinal)];
            if (!pairs.TryGetValue(module, out Dictionary<string, string>? pair))
            {
                pairs[module] = pair = [];
            }

            EspalierException.Require(pair.TryAdd(part, key), $"{path} holds several adapters for {module}; save one adapter a folder.");
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
    private static (string Bias, string[] Modules) Whole(WeightAdaptationRun run)
    {
        string[] names = [.. run.Whole.Select(w => w.Name)];
        string[] biases = [.. run.Context.Parameters.Select(p => p.Name).Where(n => n.EndsWith(".bias", StringComparison.Ordinal))];
        bool all = names.Length > 0 && biases.Length > 0 && biases.All(names.Contains);
        return (all ? "all" : "none", [.. (all ? names.Except(biases) : names).Select(Owner).Distinct()]);
    }

    private static JsonObject Config(WeightAdaptationRun run, IPeftMethod method, string bias, string[] modules)
    {
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
            ["use_dora"] = method is Dora,
            ["use_rslora"] = method.RankStabilised,
        };
        Patterns(run, method, json);
        return json;
    }

    // Adapters that were opened may each have a rank and strength of their own.
    private static void Patterns(WeightAdaptationRun run, IPeftMethod method, JsonObject json)
    {
        foreach ((NetWeight target, ILinearAdapter adapter) in run.Targets.Zip(run.Adapters))
        {
            Factors factors = Factors.Of(adapter);
            long rank = factors.A.shape[0];
            double alpha = Math.Round(factors.Scaling / method.Factor(rank, 1), 9);
            if (rank != method.Rank)
            {
                json["rank_pattern"]![target.Module] = rank;
            }

            if (alpha != Math.Round(method.Alpha, 9))
            {
                json["alpha_pattern"]![target.Module] = alpha;
            }
        }
    }

    private static string Owner(string parameter) => parameter[..Math.Max(0, parameter.LastIndexOf('.'))];

    // A checkpoint may leave out the prefix that its class gives ("transformer."), or have one of its own.
    private static bool Same(string theirs, string ours) => theirs == ours || theirs.EndsWith("." + ours, StringComparison.Ordinal) || ours.EndsWith("." + theirs, StringComparison.Ordinal);

    /// <summary>What a file holds of an adapter: A [r, in·k·k], B [out, r], the factor of their product, and a DoRA's magnitudes [out].</summary>
    private sealed record Factors(Tensor A, Tensor B, double Scaling, Tensor? Magnitude)
    {
        public static Factors Of(ILinearAdapter adapter) => adapter switch
        {
            MaskedAdapter masked => Of(masked.Inner),
            DoraAdapter dora => new Factors(dora.A, dora.B, dora.Scaling, dora.Magnitude),
            Retraining.LowRankAdapter lora => new Factors(lora.A, lora.B, lora.Scaling, null),
            _ => throw new EspalierException($"PEFT has no layout for an adapter of the kind {adapter.GetType().Name}."),
        };
    }
}
