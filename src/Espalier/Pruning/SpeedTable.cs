using System.Globalization;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>One way to keep a model, measured on this machine.</summary>
/// <param name="Model">dense (the model before) or pruned.</param>
/// <param name="Form">f32 (libtorch), or a packed type.</param>
/// <param name="Code">The code of most matrices where it is packed; empty else.</param>
/// <param name="Bytes">Its weights in memory.</param>
/// <param name="TokensPerSecond">New tokens per second, one after the other.</param>
/// <param name="PromptTokensPerSecond">Tokens of a prompt per second.</param>
/// <param name="Perplexity">On some of the evaluation windows, the same for all; null without any.</param>
public sealed record SpeedRow(string Model, string Form, string Code, long Bytes, double TokensPerSecond, double PromptTokensPerSecond, double? Perplexity)
{
    /// <summary>As in "pruned int4".</summary>
    public string Name => $"{Model} {Form}";
}

/// <summary>The model before and the pruned one, unpacked and packed, side by side: what pruning brings on this machine, measured and not promised.</summary>
/// <param name="Rows">What was measured.</param>
/// <param name="Threads">Threads that computed.</param>
/// <param name="Windows">Evaluation windows behind the perplexities.</param>
/// <param name="Sentence">What it comes to; says so first where packing is not faster.</param>
public sealed record SpeedTable(IReadOnlyList<SpeedRow> Rows, int Threads, int Windows, string Sentence)
{
    private const int MostTokens = 4096;

    /// <summary>Measures all ways in turns.</summary>
    /// <param name="dense">The model before.</param>
    /// <param name="pruned">The model after.</param>
    /// <param name="evaluation">Windows of token ids; empty measures no perplexity.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public static SpeedTable Measure(StreamedModel dense, StreamedModel pruned, long[][] evaluation, IProgressSink progress, CancellationToken cancellation)
    {
        long[][] windows = [.. evaluation.Take(Math.Max(1, MostTokens / Math.Max(1, evaluation.FirstOrDefault()?.Length ?? 1)))];
        var models = new List<(string Model, string Form, string Code, LanguageModel Loaded)>();
        try
        {
            foreach ((string name, StreamedModel model) in new[] { ("dense", dense), ("pruned", pruned) })
            {
                PackedType[] types = name == "dense" ? [PackedType.Int8, PackedType.Int4] : [PackedType.BFloat16, PackedType.Int8, PackedType.Int4];
                models.Add((name, "f32", "", LanguageModel.Load(model.Config, model.Source)));
                foreach (PackedType type in types)
                {
                    cancellation.ThrowIfCancellationRequested();
                    LanguageModel packed = LanguageModel.Load(model.Config, new PackingSource(model.Source, model.Config, new PackOptions(type)), compact: true);
                    models.Add((name, PackedTypes.WordOf(type), CodeOf(packed), packed));
                }
            }

            using IProgressTask task = progress.Begin("measuring speed", models.Count, "model");
            IReadOnlyList<DecodingSpeed> speeds = DecodingSpeed.Measure([.. models.Select(m => m.Loaded)], new DecodingSpeed.Options { NewTokens = 24, PromptTokens = 64 }, cancellation);
            SpeedRow[] rows = [.. models.Zip(speeds, (m, speed) =>
            {
                double? perplexity = Perplexity(m.Loaded, windows, cancellation);
                task.Advance();
                return new SpeedRow(m.Model, m.Form, m.Code, m.Loaded.WeightBytes, speed.TokensPerSecond, speed.PromptTokensPerSecond, perplexity);
            })];
            return new SpeedTable(rows, get_num_threads(), windows.Length, Judge(rows));
        }
        finally
        {
            foreach ((_, _, _, LanguageModel loaded) in models)
            {
                loaded.Dispose();
            }
        }
    }

    /// <summary>
    /// Compares the fastest packed form of the pruned model with the dense model in as many bits, which is what its user could have without pruning.
    /// Where it is not faster, names what would be if time went with bytes.
    /// </summary>
    internal static string Judge(IReadOnlyList<SpeedRow> rows)
    {
        SpeedRow best = rows.Where(r => r.Model == "pruned" && r.Code.Length > 0).MaxBy(r => r.TokensPerSecond)!;
        SpeedRow rival = rows.FirstOrDefault(r => r.Model == "dense" && r.Form == best.Form) ?? rows.Where(r => r.Model == "dense").MaxBy(r => r.TokensPerSecond)!;
        double gain = best.TokensPerSecond / rival.TokensPerSecond, whole = best.TokensPerSecond / rows.First(r => r.Model == "dense").TokensPerSecond;
        string beside = Format($"{best.TokensPerSecond:0} tokens/s as packed {best.Form} in {Text.Bytes(best.Bytes)}, {whole:0.0} times the dense model in float32 and {gain:0.00} times the dense model in {rival.Form} ({Text.Bytes(rival.Bytes)})");
        if (gain >= 1.05)
        {
            return $"Pruning made it faster on this machine: {beside}.";
        }

        // With weights in the caches or overhead in between, fewer bytes bring less time than their share.
        double worth = best.TokensPerSecond * best.Bytes / (rival.TokensPerSecond * rival.Bytes), share = worth / 1.05 * rival.Bytes / best.Bytes;
        string cure = best.Bytes >= rival.Bytes * 0.97 ? "these weights keep too much for a bit mask to pay"
            : "it is smaller, but a token does not wait for bytes at this size: the kernels' and the model's other work decides";
        string other = share is > 0.4 and < 0.97
            ? Format($"; at the speed measured, a pattern that takes {share:0%} of the packed bytes would be faster: a higher sparsity, 2:4, or whole heads and neurons (pattern: structured)")
            : "; whole heads and neurons (pattern: structured) make every form faster";
        string than = rival.Form == best.Form ? "the dense model in as many bits" : "the fastest form of the dense model";
        return $"Packed, it is not clearly faster than {than} on this machine: {beside}; {cure}{other}.";
    }

    private static string Format(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);

    private static string CodeOf(LanguageModel model) => model.Blocks.SelectMany(b => b.Linears).Select(l => l.Linear.Compact).OfType<PackedWeight>()
        .GroupBy(w => w.Matrix.Code).MaxBy(g => g.Count()) is { } most ? MatrixCodes.WordOf(most.Key) : "";

    private static double? Perplexity(LanguageModel model, long[][] windows, CancellationToken cancellation)
    {
        if (windows.Length == 0)
        {
            return null;
        }

        using var scope = NewDisposeScope();
        return Evaluation.Perplexity.Evaluate(model, stack([.. windows.Select(w => tensor(w))]), cancellation: cancellation).Value;
    }
}
