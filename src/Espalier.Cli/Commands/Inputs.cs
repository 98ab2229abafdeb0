using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity.Packed;

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

    /// <summary>The seeds of <c>--seeds</c>.</summary>
    /// <exception cref="EspalierException">For words that are no seeds, none, or one twice.</exception>
    public static IReadOnlyList<long> Seeds(string words)
    {
        long[] seeds = [.. words.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).Select(word =>
            long.TryParse(word, NumberStyles.None, CultureInfo.InvariantCulture, out long seed)
                ? seed
                : throw new EspalierException($"'{word}' is no seed; seeds are whole numbers, for example --seeds 0,1,2."))];
        EspalierException.Require(seeds.Length > 0 && seeds.Distinct().Count() == seeds.Length, "Give at least one seed, each once, for example --seeds 0,1,2.");
        return seeds;
    }

    /// <summary>A model wholly in memory. A packed one stays packed and runs on the packed kernels; on a GPU it is unpacked on the way.</summary>
    public static LanguageModel Load(string folder, CommandContext context)
    {
        ModelConfig config = ModelConfig.Load(folder);
        ITensorSource source = PackedSource.OpenAny(folder);
        using var opened = source as IDisposable;
        return LanguageModel.Load(config, source, context.Device, context.Progress, compact: context.Device.type is TorchSharp.DeviceType.CPU);
    }
}
