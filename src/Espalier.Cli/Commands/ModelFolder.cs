using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Models;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary>Opens what the word MODEL stands for on the command line.</summary>
internal static class ModelFolder
{
    /// <summary>The folder of a model.</summary>
    /// <exception cref="EspalierException">When there is none.</exception>
    public static string Find(string model, IProgressSink progress, CancellationToken cancellation)
    {
        _ = (progress, cancellation);
        EspalierException.Require(Directory.Exists(model), $"There is no model folder '{model}'; give the path of a folder with config.json and safetensors files.");
        return Path.GetFullPath(model);
    }

    /// <summary>A model wholly in memory, with its tokeniser.</summary>
    public static (LanguageModel Model, Tokenizer Tokenizer) Load(string model, CommandContext context, CancellationToken cancellation)
    {
        string folder = Find(model, context.Progress, cancellation);
        ModelConfig config = ModelConfig.Load(folder);
        Tokenizer tokenizer = Tokenizer.Load(folder);
        using Checkpoint checkpoint = Checkpoint.Open(folder);
        return (LanguageModel.Load(config, checkpoint, context.Device, context.Progress), tokenizer);
    }
}
