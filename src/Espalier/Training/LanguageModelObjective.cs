using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Next-token cross-entropy: the mean over all predicted tokens of a micro-batch.</summary>
/// <remarks>The labels are shifted instead of the logits, so that the logits [batch·tokens, vocabulary], the largest tensor of all, are never copied.</remarks>
public sealed class LanguageModelObjective : ITrainingObjective
{
    /// <summary>The label of a position that is not learned from (the field's convention).</summary>
    public const long Ignored = -100;

    private readonly Func<Tensor, Tensor> _logits;
    private readonly Func<long, int, (Tensor Ids, Tensor Labels)> _batch;
    private readonly long? _padding;

    /// <summary>Learns every token of the sequences but padding.</summary>
    /// <param name="logits">Token ids [batch, tokens] to logits [batch, tokens, vocabulary], float32.</param>
    /// <param name="batch">The ids [batch, tokens], int64, of (step, micro-batch), on the model's device.</param>
    /// <param name="padding">The id of padding, which is not learned; null where sequences are full.</param>
    public LanguageModelObjective(Func<Tensor, Tensor> logits, Func<long, int, Tensor> batch, long? padding = null)
        : this(logits, (step, micro) => batch(step, micro) is var ids ? (ids, ids) : default) => _padding = padding;

    /// <summary>Learns every token of the sequences but padding.</summary>
    /// <param name="model">The model; which of its parameters learn is decided outside.</param>
    /// <param name="batch">The ids [batch, tokens], int64, of (step, micro-batch), on the model's device.</param>
    /// <param name="padding">The id of padding, which is not learned; null where sequences are full.</param>
    public LanguageModelObjective(LanguageModel model, Func<long, int, Tensor> batch, long? padding = null)
        : this(ids => model.Logits(ids), batch, padding)
    {
    }

    /// <summary>Learns the labelled tokens (answers but not prompts).</summary>
    /// <param name="logits">Token ids [batch, tokens] to logits [batch, tokens, vocabulary], float32.</param>
    /// <param name="batch">Ids and labels, both [batch, tokens], int64; a label is the id at its own position, or <see cref="Ignored"/>.</param>
    public LanguageModelObjective(Func<Tensor, Tensor> logits, Func<long, int, (Tensor Ids, Tensor Labels)> batch) => (_logits, _batch) = (logits, batch);

    /// <inheritdoc/>
    public long Tokens { get; private set; }

    /// <inheritdoc/>
    /// <exception cref="EspalierException">When sequences are shorter than two tokens, labels are shaped otherwise, or none is to be learned.</exception>
    public Tensor Loss(long step, int microBatch)
    {
        using var scope = NewDisposeScope();
        (Tensor ids, Tensor labels) = _batch(step, microBatch);
        EspalierException.Require(ids.dim() == 2 && ids.shape[1] >= 2,
            $"The batch of step {step} has shape [{string.Join(", ", ids.shape)}]; language modelling needs [batch, tokens] with at least two tokens.");
        EspalierException.Require(labels.shape.AsSpan().SequenceEqual(ids.shape),
            $"The labels of step {step} have shape [{string.Join(", ", labels.shape)}], but the ids have [{string.Join(", ", ids.shape)}].");
        Tokens += ids.numel();

        Tensor targets = Next(labels);
        if (_padding is { } padding)
        {
            targets.masked_fill_(targets.eq(padding), Ignored);
        }

        EspalierException.Require(targets.ne(Ignored).any().item<bool>(), $"The batch of step {step} has no token to learn: all are padding or ignored.");
        Tensor logits_BTV = _logits(ids);
        return nn.functional.cross_entropy(logits_BTV.flatten(0, 1), targets.flatten(), ignore_index: Ignored).MoveToOuterDisposeScope();
    }

    /// <summary>What each position predicts: the label of the next; the last of a sequence predicts nothing.</summary>
    /// <param name="labels">[batch, tokens], int64, each at its own position.</param>
    internal static Tensor Next(Tensor labels)
    {
        using var scope = NewDisposeScope();
        Tensor targets = full(labels.shape, Ignored, int64, labels.device);
        targets.narrow(1, 0, labels.shape[1] - 1).copy_(labels.narrow(1, 1, labels.shape[1] - 1));
        return targets.MoveToOuterDisposeScope();
    }
}
