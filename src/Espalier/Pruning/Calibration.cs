using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>Carries the calibration sequences of a job through parts of its model.</summary>
internal static class Calibration
{
    /// <summary>Room for the hidden states of all sequences.</summary>
    public static ActivationStore Store(PruningJob job, ModelConfig config, string? spillFolder) =>
        ActivationStore.Create(job.Calibration.Length, job.Calibration[0].Length, config.HiddenSize, job.Device, spillFolder);

    /// <summary>The hidden states that enter the first block.</summary>
    public static ActivationStore Embed(PruningJob job, StreamedModel model, string? spillFolder, CancellationToken cancellation)
    {
        ActivationStore hidden = Store(job, model.Config, spillFolder);
        using var whole = NewDisposeScope();
        using Embedding embedding = model.LoadEmbedding(job.Device);
        using var _ = no_grad();
        for (int i = 0; i < hidden.Count; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            Tensor ids = tensor(job.Calibration[i], device: job.Device).unsqueeze(0); // [1, tokens]
            hidden.Write(i, embedding.Forward(ids, 0));
        }

        NativeMemory.Trim();

        return hidden;
    }

    /// <summary>Passes all sequences through a block; <paramref name="outputs"/> may be <paramref name="inputs"/>.</summary>
    public static void Forward(PruningJob job, DecoderBlock block, ActivationStore inputs, ActivationStore? outputs, CancellationToken cancellation, Action<int, Tensor>? seen = null)
    {
        using var _ = no_grad();
        for (int from = 0; from < inputs.Count; from += job.SequencesAtOnce)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            Tensor output = block.Forward(inputs.Read(from, Math.Min(job.SequencesAtOnce, inputs.Count - from)));
            outputs?.Write(from, output);
            seen?.Invoke(from, output);
        }
    }
}
