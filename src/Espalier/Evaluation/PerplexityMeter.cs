using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Evaluation;

/// <summary>Gathers the cross-entropy of windows as they come, for models that are run block by block.</summary>
public sealed class PerplexityMeter
{
    /// <summary>Logits of at most this many elements are looked at together (64 MiB), so that their soft-max needs little memory.</summary>
    private const long ElementsAtOnce = 1 << 24;

    /// <summary>Positions that hidden states are turned into logits for at once: a head's logits of 128 positions are small for any vocabulary.</summary>
    private const long PositionsAtOnce = 128;

    private readonly List<double> _means = [];
    private long _tokens;

    /// <summary>The perplexity of the windows so far.</summary>
    /// <exception cref="EspalierException">When there was none.</exception>
    public PerplexityResult Result
    {
        get
        {
            EspalierException.Require(_means.Count > 0, "There is no perplexity, because no window was scored.");
            double mean = _means.Average();
            double squares = _means.Sum(m => (m - mean) * (m - mean));
            double error = _means.Count == 1 ? double.NaN : Math.Sqrt(squares / (_means.Count - 1) / _means.Count);
            return new PerplexityResult(Math.Exp(mean), mean, _means.Count, _tokens, error);
        }
    }

    /// <summary>Scores windows from their logits.</summary>
    /// <param name="logits">[batch, length, vocabulary].</param>
    /// <param name="ids">The tokens [batch, length], int64.</param>
    /// <exception cref="EspalierException">When shapes do not fit, an id is outside the vocabulary, or a loss is not finite.</exception>
    public void Add(Tensor logits, Tensor ids)
    {
        EspalierException.Require(logits.dim() == 3, $"Logits of shape [{string.Join(", ", logits.shape)}] cannot be scored; they must be [batch, length, vocabulary].");
        Add(logits, ids, slice => slice, Math.Max(1, ElementsAtOnce / logits.shape[2]));
    }

    /// <summary>Scores windows from hidden states, with logits made a few positions at a time.</summary>
    /// <param name="hidden">[batch, length, hidden].</param>
    /// <param name="ids">The tokens [batch, length], int64.</param>
    /// <param name="head">Hidden states [1, positions, hidden] to logits [1, positions, vocabulary].</param>
    /// <exception cref="EspalierException">When shapes do not fit, an id is outside the vocabulary, or a loss is not finite.</exception>
    public void Add(Tensor hidden, Tensor ids, Func<Tensor, Tensor> head) => Add(hidden, ids, head, PositionsAtOnce);

    private void Add(Tensor states, Tensor ids, Func<Tensor, Tensor> head, long positions)
    {
        EspalierException.Require(ids.dim() == 2 && states.dim() == 3 && states.shape[0] == ids.shape[0] && states.shape[1] == ids.shape[1],
            $"Model outputs of shape [{string.Join(", ", states.shape)}] do not belong to tokens of shape [{string.Join(", ", ids.shape)}].");
        using var inference = no_grad();
        long predictions = ids.shape[1] - 1;
        for (long window = 0; window < ids.shape[0]; window++)
        {
            double sum = 0;
            for (long first = 0; first < predictions; first += positions)
            {
                using var scope = NewDisposeScope();
                long count = Math.Min(positions, predictions - first);
                Tensor logits_TV = head(states.narrow(0, window, 1).narrow(1, first, count)).squeeze(0).to(float32);
                Tensor targets_T = ids[window].narrow(0, first + 1, count).to(logits_TV.device);
                EspalierException.Require(targets_T.max().item<long>() < logits_TV.shape[1] && targets_T.min().item<long>() >= 0,
                    $"Window {_means.Count} has token ids outside the vocabulary of {logits_TV.shape[1]}; use the tokenizer that belongs to the model.");
                sum += nn.functional.cross_entropy(logits_TV, targets_T, reduction: nn.Reduction.None).sum(float64).item<double>();
            }

            EspalierException.Require(double.IsFinite(sum),
                $"The model's logits for window {_means.Count} are not finite (its loss is {sum / predictions}); the model is damaged, or its weights overflow in their type.");
            _means.Add(sum / predictions);
            _tokens += predictions;
        }
    }
}
