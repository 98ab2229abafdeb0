using Espalier.Models;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>Step 7 as a training objective: L = L_logits (+ L_CLM) + alpha·L_is of a student against a teacher.</summary>
/// <remarks>
/// The logits [tokens, vocabulary] are the peak of memory, so they are made for some tokens at a time: each part's gradient with
/// respect to the last hidden states and the head is taken at once and the logits are forgotten. The loss that comes back has
/// exactly these gradients, by a term that is zero and linear in what they belong to.
/// </remarks>
/// <param name="options">The distance, the temperature, the places.</param>
/// <param name="student">What is trained.</param>
/// <param name="teacher">What it learns from.</param>
/// <param name="batches">Token ids [batch, tokens] of (step, micro-batch).</param>
/// <param name="projection">P [teacher width, student width], shared by all places; null without places.</param>
internal sealed class MinitronObjective(Minitron options, LanguageModel student, DistillationTeacher teacher, Func<long, int, Tensor> batches, Parameter? projection) : ITrainingObjective
{
    /// <summary>Logits of one part in all, of student or teacher: 32 MB in float32.</summary>
    private const long LogitsAtOnce = 8_000_000;

    private readonly int[] _map = Map(student.Config.LayerCount, teacher.Config.LayerCount);

    /// <summary>Tokens whose logits are held at once.</summary>
    public long TokensAtOnce { get; init; } = Math.Max(1, LogitsAtOnce / student.Config.VocabSize);

    /// <inheritdoc/>
    public long Tokens { get; private set; }

    /// <summary>The teacher's block for each of the student's, evenly spread: the last belongs to the last.</summary>
    public static int[] Map(int student, int teacher) =>
        [.. Enumerable.Range(1, student).Select(i => Math.Max(0, (int)Math.Round((double)i * teacher / student, MidpointRounding.AwayFromZero) - 1))];

    /// <inheritdoc/>
    public Tensor Loss(long step, int microBatch)
    {
        using var scope = NewDisposeScope();
        Tensor ids = batches(step, microBatch);
        Tokens += ids.numel();
        (Tensor target, HiddenStates wanted) = teacher.Answer(ids, options.HiddenStates, _map.ToHashSet());
        var seen = new HiddenStates();
        Tensor hidden = seen.Through(student.Embedding, ids, options.HiddenStates);
        foreach (DecoderBlock block in student.Blocks)
        {
            hidden = seen.Through(block, hidden, options.HiddenStates);
        }

        (Tensor logits, Tensor loss) = Predictions(ids, hidden, target);
        if (seen.Kept.Count > 0)
        {
            Tensor states = stack([.. seen.Kept.Select(k => Minitron.HiddenLoss(new HiddenPair(seen[k.Place, k.Block], wanted[k.Place, k.Block < 0 ? k.Block : _map[k.Block]], projection!)))]).mean();
            loss = loss + (Minitron.Alpha(logits, states) * states);
        }

        return loss.MoveToOuterDisposeScope();
    }

    /// <summary>L_logits as a number, and L_logits (+ L_CLM) with its gradients.</summary>
    private (Tensor Logits, Tensor Loss) Predictions(Tensor ids_BT, Tensor hidden_BTH, Tensor target_BTH)
    {
        Tensor labels = LanguageModelObjective.Next(ids_BT).flatten();
        long tokens = labels.shape[0], labelled = ids_BT.shape[0] * (ids_BT.shape[1] - 1);
        Tensor target = target_BTH.flatten(0, 1), leaf = hidden_BTH.detach().flatten(0, 1).requires_grad_(true);
        Tensor[] roots = [leaf, .. HeadParameters()];
        Tensor[] gradients = [.. roots.Select(r => zeros_like(r, requires_grad: false))];
        Tensor logits = zeros([], ScalarType.Float32, device: ids_BT.device), crossEntropy = zeros_like(logits);
        teacher.WithHead(head =>
        {
            for (long from = 0; from < tokens; from += TokensAtOnce)
            {
                using var scope = NewDisposeScope();
                long count = Math.Min(TokensAtOnce, tokens - from);
                Tensor s = student.Head.Forward(leaf.narrow(0, from, count).unsqueeze(0)).squeeze(0), t;
                using (no_grad())
                {
                    t = head.Forward(target.narrow(0, from, count).unsqueeze(0)).squeeze(0);
                }

                Tensor part = Minitron.LogitLoss(s, t, options.Temperature, options.Distance) * ((double)count / tokens);
                logits.add_(part.detach());
                if (options.UseCrossEntropy)
                {
                    Tensor text = nn.functional.cross_entropy(Minitron.Wide(s), labels.narrow(0, from, count), ignore_index: LanguageModelObjective.Ignored, reduction: nn.Reduction.Sum) / labelled;
                    crossEntropy.add_(text.detach());
                    part = part + text;
                }

                IList<Tensor> found = autograd.grad([part], roots);
                for (int i = 0; i < roots.Length; i++)
                {
                    gradients[i].add_(found[i]);
                }
            }
        });

        Tensor value = options.UseCrossEntropy ? logits + crossEntropy : logits.clone();
        Tensor[] real = [hidden_BTH, .. roots[1..]];
        for (int i = 0; i < real.Length; i++)
        {
            Tensor linear = real[i].flatten().dot(gradients[i].flatten());
            value = value + linear - linear.detach();
        }

        return (logits, value);
    }

    /// <summary>What of the student's head is trained; a tied head reads the token table.</summary>
    private IEnumerable<Tensor> HeadParameters()
    {
        IEnumerable<Parameter> own = student.Head.Tensors.Select(t => t.Value);
        return own.Concat(student.Head.Projection is null ? [student.Embedding.Tokens.weight] : []).Where(p => p.requires_grad);
    }
}
