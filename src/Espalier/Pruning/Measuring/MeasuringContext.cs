using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Pruning.Measuring;

/// <summary>What a part of a plan is given to measure the dense model with.</summary>
public sealed class MeasuringContext
{
    /// <summary>From this many bytes on hidden states go to files even where no memory budget was given.</summary>
    private const long LargestInMemory = 1L << 28;

    /// <summary>The dense model, opened and not loaded.</summary>
    public required StreamedModel Model { get; init; }

    /// <summary>The plan whose part measures.</summary>
    public required PruningPlan Plan { get; init; }

    /// <summary>Calibration windows, each of the same number of token ids.</summary>
    public required long[][] Calibration { get; init; }

    /// <summary>Where to compute.</summary>
    public required Device Device { get; init; }

    /// <summary>Where results are kept.</summary>
    public required Measurements Results { get; init; }

    /// <summary>A folder for hidden states that do not fit into memory.</summary>
    public required string Folder { get; init; }

    /// <summary>Whether hidden states go to files to stay inside the memory budget.</summary>
    public bool Spills { get; init; }

    /// <summary>Where progress is told.</summary>
    public required IProgressSink Progress { get; init; }

    /// <summary>Ends the work early; finished pieces stay.</summary>
    public CancellationToken Cancellation { get; init; }

    /// <summary>The seed of every draw.</summary>
    public Seed Seed => Plan.Seed;

    /// <summary>Room for hidden states of some sequences.</summary>
    /// <param name="count">Sequences.</param>
    /// <param name="stores">How many of such stores there will be at once.</param>
    internal ActivationStore Room(int count, int stores)
    {
        long tokens = Calibration[0].Length, hidden = Model.Config.HiddenSize;
        bool toFile = Spills || stores * ActivationStore.Bytes(Calibration.Length, tokens, hidden) > LargestInMemory;
        return ActivationStore.Create(count, tokens, hidden, Device, toFile ? Folder : null);
    }

    /// <summary>The hidden states that enter the first block, of the first <paramref name="count"/> sequences.</summary>
    internal void Embed(ActivationStore into, int count)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using Embedding embedding = Model.LoadEmbedding(Device);
        for (int i = 0; i < count; i++)
        {
            Cancellation.ThrowIfCancellationRequested();
            using var step = NewDisposeScope();
            into.Write(i, embedding.Forward(Ids(i, 1), 0));
        }
    }

    /// <summary>Token ids [count, tokens] of some sequences.</summary>
    internal Tensor Ids(int from, int count) =>
        stack([.. Calibration.Skip(from).Take(count).Select(w => tensor(w, device: Device))]);

    /// <summary>The mean next-token cross-entropy of logits [sequences, tokens, vocabulary] of sequences from <paramref name="from"/> on; differentiable.</summary>
    internal Tensor Loss(Tensor logits, int from)
    {
        using var scope = NewDisposeScope();
        long tokens = logits.shape[1] - 1;
        Tensor predicted = logits.narrow(1, 0, tokens).flatten(0, 1), next = Ids(from, (int)logits.shape[0]).narrow(1, 1, tokens).flatten();
        return nn.functional.cross_entropy(predicted, next).MoveToOuterDisposeScope();
    }

    /// <summary>Passes stored sequences through a block, in place.</summary>
    internal void Forward(DecoderBlock block, ActivationStore hidden)
    {
        using var _ = no_grad();
        int atOnce = PruningJob.AtOnce(Calibration);
        for (int from = 0; from < hidden.Count; from += atOnce)
        {
            Cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            hidden.Write(from, block.Forward(hidden.Read(from, Math.Min(atOnce, hidden.Count - from))));
        }
    }
}
