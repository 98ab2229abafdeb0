using Espalier.Data;
using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Evaluation.Tasks;

/// <summary>Scores continuations with a language model: batches of like length, padded on the right, where padding cannot be seen by what is scored.</summary>
/// <remarks>Requests whose tokens are the same up to the last share one pass: choices of one token ("yes", "no") cost one together.</remarks>
public abstract class ModelLikelihood : ILikelihood
{
    /// <summary>Sequences are batched up to about this many tokens.</summary>
    private const int TokensPerBatch = 2048;

    /// <summary>Positions that are turned into logits at once.</summary>
    private const int PositionsAtOnce = 128;

    private readonly Tokenizer tokenizer;
    private readonly ModelConfig config;

    private protected ModelLikelihood(Tokenizer tokenizer, ModelConfig config, Device device) =>
        (this.tokenizer, this.config, Device) = (tokenizer, config, device);

    /// <summary>Where the model computes.</summary>
    private protected Device Device { get; }

    /// <summary>A model in memory; it stays the caller's.</summary>
    /// <param name="model">The model.</param>
    /// <param name="tokenizer">Its tokeniser.</param>
    public static ModelLikelihood Of(LanguageModel model, Tokenizer tokenizer) => new ResidentLikelihood(model, tokenizer);

    /// <summary>A model that is read block by block; it stays the caller's.</summary>
    /// <param name="model">The model.</param>
    /// <param name="tokenizer">Its tokeniser.</param>
    /// <param name="device">Where to compute; null is the CPU.</param>
    /// <param name="hiddenBytes">How much memory hidden states may take between two blocks. More requests than fit into it go through the model in turns. Default 512 MiB.</param>
    /// <exception cref="EspalierException">When <paramref name="hiddenBytes"/> is not positive.</exception>
    public static ModelLikelihood Of(StreamedModel model, Tokenizer tokenizer, Device? device = null, long hiddenBytes = 512L << 20)
    {
        EspalierException.Require(hiddenBytes > 0, $"{hiddenBytes} bytes hold no hidden states; give the streamed pass some memory.");
        return new StreamedLikelihood(model, tokenizer, device ?? CPU, hiddenBytes);
    }

    /// <inheritdoc/>
    /// <exception cref="EspalierException">When a continuation has no tokens or too many, ids lie outside the vocabulary, or the model's logits are not finite.</exception>
    public IReadOnlyList<LikelihoodScore> Score(IReadOnlyList<LikelihoodRequest> requests, string name, IProgressSink progress, CancellationToken cancellation)
    {
        EncodedPair[] pairs = Encode(requests, progress, cancellation);
        var scores = new LikelihoodScore[requests.Count];
        Batch[] batches = [.. Batches(pairs)];
        using var inference = no_grad();
        using IProgressTask task = progress.Begin(name, PassesFor(batches), "pass");
        Run(batches, (batch, hidden, head) => Read(batch, hidden, head, pairs, scores), task, cancellation);
        return scores;
    }

    /// <summary>How many steps <see cref="Run"/> will tell of.</summary>
    private protected abstract long PassesFor(IReadOnlyList<Batch> batches);

    /// <summary>Passes batches through the model.</summary>
    /// <param name="batches">The batches, the longest sequences first.</param>
    /// <param name="read">Called once for each batch with its last hidden states [sequences, tokens, hidden] and the head.</param>
    /// <param name="task">Told pass by pass.</param>
    /// <param name="cancellation">Ends the work early.</param>
    private protected abstract void Run(IReadOnlyList<Batch> batches, Action<Batch, Tensor, OutputHead> read, IProgressTask task, CancellationToken cancellation);

    private EncodedPair[] Encode(IReadOnlyList<LikelihoodRequest> requests, IProgressSink progress, CancellationToken cancellation)
    {
        var pairs = new EncodedPair[requests.Count];
        for (int i = 0; i < pairs.Length; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            pairs[i] = PairEncoder.Encode(tokenizer, requests[i], config.MaxPositions);
            int largest = Math.Max(pairs[i].Input.Max(), pairs[i].Targets.Max());
            EspalierException.Require(largest < config.VocabSize, $"The tokeniser gives the id {largest}, outside the model's vocabulary of {config.VocabSize}; use the tokeniser that belongs to the model.");
        }

        int cut = pairs.Count(p => p.Cut > 0);
        if (cut > 0)
        {
            progress.Warn($"{cut} of {pairs.Length} requests are longer than the model's context of {config.MaxPositions} tokens; they were cut on the left, by {pairs.Max(p => p.Cut)} tokens at most.");
        }

        return pairs;
    }

    /// <summary>Requests of the same input together, the longest inputs first, in batches.</summary>
    private static IEnumerable<Batch> Batches(EncodedPair[] pairs)
    {
        Sequence[] sequences = [.. pairs.Index().GroupBy(p => p.Item.Input, SameTokens.Instance)
            .Select(g => new Sequence(g.Key, [.. g.Select(p => p.Index)])).OrderByDescending(s => s.Input.Length)];
        for (int from = 0; from < sequences.Length;)
        {
            int count = Math.Clamp(TokensPerBatch / sequences[from].Input.Length, 1, sequences.Length - from);
            yield return new Batch(sequences[from..(from + count)]);
            from += count;
        }
    }

    /// <summary>Log-probabilities of a batch's continuations from its last hidden states.</summary>
    private static void Read(Batch batch, Tensor hidden_STH, OutputHead head, EncodedPair[] pairs, LikelihoodScore[] scores)
    {
        using var scope = NewDisposeScope();
        (int Request, long Position, long Target)[] wanted = [.. batch.Sequences.Index().SelectMany(s => s.Item.Requests.SelectMany(r =>
            pairs[r].Targets.Select((target, t) => (r, (long)(s.Index * batch.Length) + s.Item.Input.Length - pairs[r].Targets.Length + t, (long)target))))];
        Tensor flat_NH = hidden_STH.reshape(-1, hidden_STH.shape[2]);
        for (int from = 0; from < wanted.Length; from += PositionsAtOnce)
        {
            using var slice = NewDisposeScope();
            var some = wanted.AsSpan(from, Math.Min(PositionsAtOnce, wanted.Length - from)).ToArray();
            Tensor positions = tensor([.. some.Select(w => w.Position)], device: hidden_STH.device);
            Tensor targets = tensor([.. some.Select(w => w.Target)], device: hidden_STH.device);
            Tensor logits_PV = head.Forward(flat_NH.index_select(0, positions).unsqueeze(0)).squeeze(0).to(float32);
            float[] losses = nn.functional.cross_entropy(logits_PV, targets, reduction: nn.Reduction.None).cpu().data<float>().ToArray();
            for (int i = 0; i < some.Length; i++)
            {
                EspalierException.Require(float.IsFinite(losses[i]), "The model's logits are not finite; the model is damaged, or its weights overflow in their type.");
                LikelihoodScore before = scores[some[i].Request];
                scores[some[i].Request] = new LikelihoodScore(before.LogLikelihood - losses[i], before.Tokens + 1);
            }
        }
    }

    /// <summary>One input and the requests that it answers.</summary>
    private protected sealed record Sequence(int[] Input, int[] Requests);

    /// <summary>Sequences that go through the model together.</summary>
    private protected sealed record Batch(Sequence[] Sequences)
    {
        /// <summary>The tokens of the longest, to which the others are padded.</summary>
        public int Length => Sequences[0].Input.Length;

        /// <summary>Token ids [sequences, length], int64, padded on the right with id 0.</summary>
        public Tensor Ids(Device device)
        {
            long[] ids = new long[Sequences.Length * Length];
            foreach ((int s, Sequence sequence) in Sequences.Index())
            {
                for (int t = 0; t < sequence.Input.Length; t++)
                {
                    ids[(s * Length) + t] = sequence.Input[t];
                }
            }

            return tensor(ids, [Sequences.Length, Length], device: device);
        }
    }

    private sealed class SameTokens : IEqualityComparer<int[]>
    {
        public static SameTokens Instance { get; } = new();

        public bool Equals(int[]? a, int[]? b) => a.AsSpan().SequenceEqual(b);

        public int GetHashCode(int[] tokens)
        {
            var hash = new HashCode();
            hash.AddBytes(System.Runtime.InteropServices.MemoryMarshal.AsBytes(tokens.AsSpan()));
            return hash.ToHashCode();
        }
    }
}
