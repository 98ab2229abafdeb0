using System.Text.Json;
using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Tests.Models;
using static TorchSharp.torch;

namespace Espalier.Tests.Cli;

/// <summary>A small text, a tokeniser of 300 tokens and a random Llama that fits it, for commands that need all three; made once for a class of tests.</summary>
public sealed class TinyCheckpoint : IAsyncLifetime
{
    private readonly TemporaryFolder _folder = new();

    /// <summary>The text.</summary>
    public string Text => _folder["text.txt"];

    /// <summary>The model's folder: one file of weights, configuration, tokeniser.</summary>
    public string Model => _folder["model"];

    public async ValueTask InitializeAsync()
    {
        await RunProcess.TrainingAsync(_folder, "unused", 1);
        ModelConfig config = ModelConfig.Parse(await File.ReadAllTextAsync(_folder["config.json"]));
        Directory.CreateDirectory(Model);
        TinyModels.Write(Model, TinyModels.Config("llama", ("hidden_size", 32), ("intermediate_size", 64), ("head_dim", 8), ("vocab_size", config.VocabSize), ("max_position_embeddings", 64)));
        foreach (string file in Directory.GetFiles(_folder["tokenizer"]))
        {
            File.Copy(file, Path.Combine(Model, Path.GetFileName(file)));
        }
    }

    public ValueTask DisposeAsync()
    {
        _folder.Dispose();
        return ValueTask.CompletedTask;
    }

    /// <summary>Copies the model and the text into a folder of a test's own: "model", its weights in two shards, and "text.txt".</summary>
    internal void CopySharded(TemporaryFolder to)
    {
        Directory.CreateDirectory(to["model"]);
        File.Copy(Text, to["text.txt"]);
        foreach (string file in Directory.GetFiles(Model).Where(f => Path.GetFileName(f) != Checkpoint.SingleFileName))
        {
            File.Copy(file, Path.Combine(to["model"], Path.GetFileName(file)));
        }

        using MemoryTensors tensors = MemoryTensors.Read(Path.Combine(Model, Checkpoint.SingleFileName));
        ModelConfig config = ModelConfig.Load(Model);
        var map = new Dictionary<string, string>();
        for (int shard = 0; shard < 2; shard++)
        {
            string name = $"model-0000{shard + 1}-of-00002.safetensors";
            string[] names = [.. tensors.Names.Where((_, i) => i < tensors.Names.Count / 2 == (shard == 0))];
            Directory.CreateDirectory(to["shard"]);
            using (var scope = NewDisposeScope())
            {
                TinyModels.Write(to["shard"], config, names.Select(n => (n, tensors.Read(n))));
            }

            File.Move(Path.Combine(to["shard"], Checkpoint.SingleFileName), Path.Combine(to["model"], name));
            foreach (string tensor in names)
            {
                map[tensor] = name;
            }
        }

        File.WriteAllText(Path.Combine(to["model"], Checkpoint.IndexFileName), JsonSerializer.Serialize(new { weight_map = map }));
    }

    /// <summary>The hashes of the weights (and all else in safetensors, and ONNX files) that lie in a folder under their final names.</summary>
    internal static IReadOnlyDictionary<string, string> Weights(string folder) => !Directory.Exists(folder) ? new Dictionary<string, string>() : Directory.EnumerateFiles(folder)
        .Where(f => Path.GetExtension(f) is ".safetensors" or ".onnx" && !Path.GetFileName(f).StartsWith('.'))
        .ToDictionary(f => Path.GetFileName(f), f => Convert.ToHexString(System.Security.Cryptography.SHA256.HashData(File.ReadAllBytes(f))));
}
