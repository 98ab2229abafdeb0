using Espalier.Data;
using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Evaluation.Tasks;

/// <summary>Scores with a model that is wholly in memory.</summary>
internal sealed class ResidentLikelihood(LanguageModel model, Tokenizer tokenizer) : ModelLikelihood(tokenizer, model.Config, model.Tensors.First().Value.device)
{
    private protected override long PassesFor(IReadOnlyList<Batch> batches) => batches.Count;

    private protected override void Run(IReadOnlyList<Batch> batches, Action<Batch, Tensor, OutputHead> read, IProgressTask task, CancellationToken cancellation)
    {
        foreach (Batch batch in batches)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            read(batch, model.HiddenStates(batch.Ids(Device)), model.Head);
            task.Advance();
        }
    }
}
