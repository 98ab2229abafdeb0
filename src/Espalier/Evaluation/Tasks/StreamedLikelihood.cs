using Espalier.Data;
using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Evaluation.Tasks;

/// <summary>
/// Scores with a model that need not fit into memory: as many batches as their hidden states may take memory go through the
/// embedding, one block after the other, and the head; then the next ones.
/// </summary>
internal sealed class StreamedLikelihood(StreamedModel model, Tokenizer tokenizer, Device device, long hiddenBytes) : ModelLikelihood(tokenizer, model.Config, device)
{
    private protected override long PassesFor(IReadOnlyList<Batch> batches) => (long)batches.Count * model.BlockCount;

    private protected override void Run(IReadOnlyList<Batch> batches, Action<Batch, Tensor, OutputHead> read, IProgressTask task, CancellationToken cancellation)
    {
        for (int from = 0; from < batches.Count;)
        {
            int count = 0;
            for (long bytes = 0; from + count < batches.Count; count++)
            {
                Batch next = batches[from + count];
                bytes += ActivationStore.Bytes(next.Sequences.Length, next.Length, model.Config.HiddenSize);
                if (count > 0 && bytes > hiddenBytes)
                {
                    break;
                }
            }

            Turn([.. batches.Skip(from).Take(count)], read, task, cancellation);
            from += count;
        }
    }

    private void Turn(Batch[] batches, Action<Batch, Tensor, OutputHead> read, IProgressTask task, CancellationToken cancellation)
    {
        using var turn = NewDisposeScope();
        Tensor[] hidden = new Tensor[batches.Length];
        using (Embedding embedding = model.LoadEmbedding(Device))
        {
            for (int i = 0; i < batches.Length; i++)
            {
                using var scope = NewDisposeScope();
                hidden[i] = embedding.Forward(batches[i].Ids(Device), 0).MoveToOuterDisposeScope();
            }
        }

        for (int b = 0; b < model.BlockCount; b++)
        {
            using (DecoderBlock block = model.LoadBlock(b, Device))
            {
                for (int i = 0; i < batches.Length; i++)
                {
                    cancellation.ThrowIfCancellationRequested();
                    using Tensor input = hidden[i];
                    hidden[i] = block.Forward(input);
                    task.Advance();
                }
            }

            NativeMemory.Trim();
        }

        using OutputHead head = model.LoadHead(Device);
        for (int i = 0; i < batches.Length; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            read(batches[i], hidden[i], head);
            hidden[i].Dispose();
        }
    }
}
