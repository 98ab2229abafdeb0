using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Models;

/// <summary>Tiny random models of every family, in memory or as checkpoint folders, for the tests of all rooms.</summary>
internal static class TinyModels
{
    /// <summary>The families, for theories.</summary>
    public static TheoryData<string> Families => [.. Architecture.Known];

    /// <summary>A small configuration of a family: width 24, 2 blocks, 4 heads, 37 tokens, 32 positions.</summary>
    /// <param name="family">Its <c>model_type</c>.</param>
    /// <param name="changes">Fields to set; a null value is written as null.</param>
    public static ModelConfig Config(string family, params (string Name, JsonNode? Value)[] changes)
    {
        JsonObject json = family switch
        {
            "opt" => new JsonObject { ["hidden_size"] = 24, ["ffn_dim"] = 40, ["num_hidden_layers"] = 2, ["num_attention_heads"] = 4, ["max_position_embeddings"] = 32 },
            "gpt2" => new JsonObject { ["n_embd"] = 24, ["n_inner"] = 40, ["n_layer"] = 2, ["n_head"] = 4, ["n_positions"] = 32 },
            "gpt_neox" => new JsonObject { ["hidden_size"] = 24, ["intermediate_size"] = 40, ["num_hidden_layers"] = 2, ["num_attention_heads"] = 4, ["max_position_embeddings"] = 32, ["rotary_pct"] = 0.7 },
            _ => new JsonObject { ["hidden_size"] = 24, ["intermediate_size"] = 40, ["num_hidden_layers"] = 2, ["num_attention_heads"] = 4, ["num_key_value_heads"] = 2, ["head_dim"] = 6, ["max_position_embeddings"] = 32 },
        };
        json["model_type"] = family;
        json["vocab_size"] = 37;
        foreach ((string name, JsonNode? value) in changes)
        {
            json[name] = value?.DeepClone();
        }

        return ModelConfig.Parse(json.ToJsonString());
    }

    /// <summary>A model whose every parameter is random and large enough to matter.</summary>
    public static LanguageModel Create(ModelConfig config, long seed = 0)
    {
        LanguageModel model = LanguageModel.Random(config, new Seed(seed));
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        foreach ((string name, var value) in model.Tensors)
        {
            using Generator generator = new Seed(seed).Generator(name);
            bool gain = value.dim() == 1 && name.EndsWith(".weight", StringComparison.Ordinal);
            value.copy_((randn(value.shape, generator: generator) * 0.25) + (gain ? 1 : 0));
        }

        return model;
    }

    /// <inheritdoc cref="Create(ModelConfig, long)"/>
    public static LanguageModel Create(string family, long seed = 0) => Create(Config(family), seed);

    /// <summary>The tensors of such a model as a checkpoint in memory.</summary>
    public static MemoryTensors Tensors(ModelConfig config, long seed = 0)
    {
        using LanguageModel model = Create(config, seed);
        return new MemoryTensors(model.Tensors.Select(t => (t.Name, (Tensor)t.Value)));
    }

    /// <summary>Writes such a model as a checkpoint folder: config.json and model.safetensors.</summary>
    /// <param name="folder">An existing folder.</param>
    /// <param name="config">The configuration.</param>
    /// <param name="seed">The seed of its values.</param>
    /// <param name="type">Float32, BFloat16 or Float16.</param>
    public static void Write(string folder, ModelConfig config, long seed = 0, ScalarType type = ScalarType.Float32)
    {
        using LanguageModel model = Create(config, seed);
        Write(folder, config, model.Tensors.Select(t => (t.Name, (Tensor)t.Value)), type);
    }

    /// <summary>Writes these tensors as a checkpoint folder.</summary>
    public static void Write(string folder, ModelConfig config, IEnumerable<(string Name, Tensor Value)> tensors, ScalarType type = ScalarType.Float32)
    {
        using var scope = NewDisposeScope();
        var header = new JsonObject();
        using var body = new MemoryStream();
        foreach ((string name, Tensor value) in tensors)
        {
            byte[] bytes = value.detach().to(type).contiguous().bytes.ToArray();
            string typeName = type switch { ScalarType.BFloat16 => "BF16", ScalarType.Float16 => "F16", _ => "F32" };
            header[name] = new JsonObject { ["dtype"] = typeName, ["shape"] = new JsonArray([.. value.shape.Select(n => (JsonNode)n)]), ["data_offsets"] = new JsonArray(body.Length, body.Length + bytes.Length) };
            body.Write(bytes);
        }

        byte[] head = Encoding.UTF8.GetBytes(header.ToJsonString());
        using FileStream file = File.Create(Path.Combine(folder, "model.safetensors"));
        file.Write(BitConverter.GetBytes((long)head.Length));
        file.Write(head);
        body.WriteTo(file);
        File.WriteAllText(Path.Combine(folder, ModelConfig.FileName), config.ToJsonText());
    }

    /// <summary>Random token ids [batch, tokens] for a model of this vocabulary.</summary>
    public static Tensor Ids(ModelConfig config, int batch, int tokens, long seed = 0)
    {
        using Generator generator = new Seed(seed).Generator("ids");
        return randint(0, config.VocabSize, [batch, tokens], dtype: ScalarType.Int64, generator: generator);
    }
}

/// <summary>A checkpoint in memory; it owns copies of its tensors.</summary>
internal sealed class MemoryTensors : ITensorSource, IDisposable
{
    private readonly Dictionary<string, Tensor> tensors = new(StringComparer.Ordinal);
    private readonly List<string> names = [];

    public MemoryTensors(IEnumerable<(string Name, Tensor Value)> tensors)
    {
        foreach ((string name, Tensor value) in tensors)
        {
            Set(name, value);
        }
    }

    public IReadOnlyList<string> Names => names;

    public bool Contains(string name) => tensors.ContainsKey(name);

    public TensorInfo Info(string name) => new(name, "F32", tensors[name].shape, tensors[name].numel() * 4);

    public Tensor Read(string name, ScalarType? type = null) => type is null ? tensors[name].clone() : tensors[name].to(type.Value, copy: true);

    /// <summary>Adds or replaces one.</summary>
    public void Set(string name, Tensor value)
    {
        Remove(name);
        using var scope = NewDisposeScope();
        tensors[name] = value.detach().clone().DetachFromDisposeScope();
        names.Add(name);
    }

    /// <summary>Takes one out.</summary>
    public void Remove(string name)
    {
        if (tensors.Remove(name, out Tensor? old))
        {
            names.Remove(name);
            old.Dispose();
        }
    }

    /// <summary>Gives one another name.</summary>
    public void Rename(string name, string newName)
    {
        Set(newName, tensors[name]);
        Remove(name);
    }

    /// <summary>Reads a whole safetensors file of float32 and int64 tensors.</summary>
    public static MemoryTensors Read(string path)
    {
        using var scope = NewDisposeScope();
        byte[] file = File.ReadAllBytes(path);
        int headLength = (int)BitConverter.ToInt64(file);
        using JsonDocument head = JsonDocument.Parse(file.AsMemory(8, headLength));
        return new MemoryTensors(head.RootElement.EnumerateObject().Where(p => p.Name != "__metadata__").Select(p =>
        {
            long[] shape = [.. p.Value.GetProperty("shape").EnumerateArray().Select(n => n.GetInt64())];
            int[] at = [.. p.Value.GetProperty("data_offsets").EnumerateArray().Select(n => n.GetInt32() + 8 + headLength)];
            ScalarType type = p.Value.GetProperty("dtype").GetString() switch { "F32" => ScalarType.Float32, "I64" => ScalarType.Int64, var other => throw new InvalidDataException(other) };
            Tensor tensor = empty(shape, type);
            file.AsSpan(at[0], at[1] - at[0]).CopyTo(tensor.bytes);
            return (p.Name, tensor);
        }));
    }

    public void Dispose()
    {
        foreach (Tensor tensor in tensors.Values)
        {
            tensor.Dispose();
        }

        tensors.Clear();
        names.Clear();
    }
}
