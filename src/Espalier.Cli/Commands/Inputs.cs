using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Models;

namespace Espalier.Cli.Commands;

/// <summary>Opens what the words MODEL and ID:CONFIG:SPLIT stand for on the command line.</summary>
internal static class Inputs
{
    /// <summary>What <c>--data</c> options say of themselves.</summary>
    public const string DataForms = "a file (.txt, .jsonl, .csv, .parquet), a folder, or a hub id as ID:CONFIG:SPLIT";

    /// <summary>The folder of a model on this machine; a hub id is looked up in the cache and downloaded when it is not there.</summary>
    public static Task<string> ModelAsync(string model, CommandContext context, CancellationToken cancellation) =>
        Hub.ResolveAsync(model, context.Progress, cancellation);

    /// <summary>The documents of a data set.</summary>
    public static TextDataset Text(string reference, CommandContext context, CancellationToken cancellation) =>
        TextDataset.Open(DataReference.Parse(reference), id => Hub.ResolveDataset(id, context.Progress, cancellation: cancellation));

    /// <summary>A model wholly in memory.</summary>
    public static LanguageModel Load(string folder, CommandContext context)
    {
        ModelConfig config = ModelConfig.Load(folder);
        using Checkpoint checkpoint = Checkpoint.Open(folder);
        return LanguageModel.Load(config, checkpoint, context.Device, context.Progress);
    }
}
