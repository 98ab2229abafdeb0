using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Sparsity.NormalFloats;

/// <summary>A weight as <see cref="NfWriter"/> writes it.</summary>
/// <param name="Quantised">Q [out, in].</param>
/// <param name="Left">L1 [out, r]; null for none.</param>
/// <param name="Right">L2 [r, in].</param>
public sealed record NfPart(NfMatrix Quantised, Tensor? Left, Tensor? Right);

/// <summary>What was written.</summary>
/// <param name="Bytes">All tensors as stored.</param>
/// <param name="BitsPerWeight">Bits of the quantised parts per weight in them, as the format counts: without offsets and low-rank parts.</param>
/// <param name="BitsWithLowRank">The same with low-rank parts and offsets.</param>
/// <param name="LargestDifference">The largest difference of logits between the model in memory and the folder, opened anew before it got its name.</param>
public sealed record NfReport(long Bytes, double BitsPerWeight, double BitsWithLowRank, double LargestDifference);

/// <summary>Writes a model with quantised matrices and low-rank parts at its real size, all or nothing. <see cref="NfSource"/> reads it.</summary>
public static class NfWriter
{
    /// <summary>Writes a model's folder.</summary>
    /// <param name="model">The model with the weights that <paramref name="parts"/> stand for in use (dense, or as adapters).</param>
    /// <param name="parts">The quantised weights by name.</param>
    /// <param name="folder">The output folder.</param>
    /// <param name="lowRank">How low-rank parts are stored. Default bfloat16.</param>
    /// <param name="others">How other tensors are stored. Default float32.</param>
    /// <param name="companions">A folder whose tokeniser files are copied beside it; null copies none.</param>
    /// <returns>Sizes and the comparison with the model.</returns>
    /// <exception cref="EspalierException">When a name is unknown, or the disk refuses.</exception>
    public static NfReport Write(
        LanguageModel model, IReadOnlyDictionary<string, NfPart> parts, string folder, ScalarType lowRank = ScalarType.BFloat16, ScalarType others = ScalarType.Float32, string? companions = null)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        var layouts = model.Blocks.SelectMany(b => b.Linears).ToDictionary(l => l.Name, l => l.Linear.Layout is WeightLayout.InOut, StringComparer.Ordinal);
        string? unknown = parts.Keys.FirstOrDefault(n => !layouts.ContainsKey(n));
        EspalierException.Require(unknown is null, $"{unknown} is no map of the model's blocks, so it cannot be written quantised.");
        var tensors = new List<(string Name, Tensor Value)>();
        var metadata = new Dictionary<string, string> { ["format"] = NfSource.Format };
        foreach ((string name, TorchSharp.Modules.Parameter value) in model.Tensors)
        {
            if (!parts.TryGetValue(name, out NfPart? part))
            {
                tensors.Add((name, value.detach().to(others)));
                continue;
            }

            NfMatrix q = part.Quantised;
            metadata[NfSource.Matrix + name] = new NfSource.Entry(q.Format, q.OutFeatures, q.InFeatures, (int)(part.Left?.shape[1] ?? 0), layouts[name]).ToString();
            tensors.Add((name + NfSource.Codes, tensor(q.Codes.ToArray())));
            tensors.Add((name + NfSource.Scales, tensor(q.Scales.ToArray())));
            tensors.Add((name + NfSource.Supers, tensor(q.Supers.ToArray()).to(q.Format.SuperType)));
            tensors.Add((name + NfSource.OffsetPart, tensor(new[] { q.Offset })));
            if (part.Left is not null)
            {
                tensors.Add((name + NfSource.Left, part.Left.detach().to(lowRank)));
                tensors.Add((name + NfSource.Right, part.Right!.detach().to(lowRank)));
            }
        }

        Directory.CreateDirectory(folder);
        using CheckpointWriter writer = CheckpointWriter.Create(folder, [.. tensors.Select(t => ElementTypes.Plan(t.Name, t.Value.dtype, t.Value.shape))], metadata: metadata);
        foreach ((string name, Tensor value) in tensors)
        {
            writer.Write(name, value.contiguous());
        }

        LogitComparison comparison;
        using (NfSource written = NfSource.Of(writer.OpenPending()))
        using (var read = new StreamedModel(model.Config, written))
        {
            comparison = LogitComparison.Between(model, read, model.Device);
        }

        AtomicFile.WriteText(Path.Combine(folder, ModelConfig.FileName), model.Config.ToJsonText());
        if (companions is not null)
        {
            CompanionFiles.Copy(CompanionFiles.Tokenizer, companions, folder);
        }

        writer.Commit();
        double weights = parts.Values.Sum(p => (double)p.Quantised.OutFeatures * p.Quantised.InFeatures), bits = parts.Values.Sum(p => p.Quantised.StorageBits);
        double low = parts.Values.Sum(p => 32.0 + (p.Left is null ? 0 : (lowRank is ScalarType.Float32 ? 32.0 : 16.0) * (p.Left.numel() + p.Right!.numel())));
        return new NfReport(tensors.Sum(t => t.Value.numel() * t.Value.element_size()), bits / weights, (bits + low) / weights, comparison.Largest);
    }
}
