using Espalier.Models;
using Espalier.Runtime;
using Espalier.Tests.Models;

namespace Espalier.Tests.Pruning;

/// <summary>A tiny model with a tokeniser, a text, and plans for them, in a folder that is deleted afterwards.</summary>
internal sealed class ComparisonFiles : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public ComparisonFiles()
    {
        Directory.CreateDirectory(_folder["model"]);
        TinyModels.Write(_folder["model"], TinyModels.Config("llama", ("vocab_size", ModelConfig.Load(Assets.DefaultModel).VocabSize)));
        CompanionFiles.Copy(CompanionFiles.Tokenizer, Assets.DefaultModel, _folder["model"]);
        File.WriteAllLines(_folder["text.jsonl"], File.ReadLines(Assets.HeldOutText).Take(1));
    }

    public string this[string name] => _folder[name];

    public string Out => _folder["out"];

    /// <summary>Writes a plan and returns its path.</summary>
    public string Plan(string name, string prune, string more = "")
    {
        File.WriteAllText(this[name + ".yaml"], $"model: {this["model"]}\ndata: {Data}\nprune: {prune}\n{more}");
        return this[name + ".yaml"];
    }

    /// <summary>Writes a comparison in one file and returns its path.</summary>
    public string Study(params string[] plans)
    {
        File.WriteAllText(this["study.yaml"], $"model: {this["model"]}\ndata: {Data}\nseeds: [0, 1]\nout: {Out}\nplans:\n{string.Join("\n", plans.Select(p => $"  - {p}"))}\n");
        return this["study.yaml"];
    }

    public void Dispose() => _folder.Dispose();

    private string Data => $"{{ calibration: {this["text.jsonl"]}, evaluation: {this["text.jsonl"]}, samples: 4, length: 16, windows: 4, context: 16 }}";
}
