using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>How two predictions p = softmax(logits / tau) are compared.</summary>
public enum LogitDistance
{
    /// <summary>KL(teacher ‖ student).</summary>
    Kld,

    /// <summary>KL(student ‖ teacher).</summary>
    Rkld,

    /// <summary>The mean over the vocabulary of squared differences of probabilities.</summary>
    Mse,

    /// <summary>1 − cosine of the probabilities.</summary>
    Cosine,
}

/// <summary>Hidden states to match.</summary>
/// <param name="Student">[batch, tokens, c_s], after the norm.</param>
/// <param name="Teacher">[batch, tokens, c_t].</param>
/// <param name="Projection">P [c_t, c_s], learned: maps the student's width to the teacher's, without bias.</param>
public sealed record HiddenPair(Tensor Student, Tensor Teacher, Tensor Projection);

/// <summary>A distillation loss and its parts; all scalars.</summary>
/// <param name="Loss">What is minimised; differentiable.</param>
/// <param name="Logits">L_logits.</param>
/// <param name="Hidden">L_is; 0 without hidden states.</param>
/// <param name="CrossEntropy">L_CLM; null without labels. Part of <paramref name="Loss"/> only where asked.</param>
/// <param name="Alpha">L_logits / L_is, a constant of this step; 0 where L_is is 0.</param>
public sealed record MinitronLoss(Tensor Loss, Tensor Logits, Tensor Hidden, Tensor? CrossEntropy, Tensor Alpha);

public sealed partial class Minitron
{
    /// <summary>Step 7: L_logits, the mean over all tokens of a distance of predictions. No factor tau².</summary>
    /// <param name="student">Logits [batch, tokens, V]; gradients flow to them.</param>
    /// <param name="teacher">Logits of the same shape; a constant.</param>
    /// <param name="tau">The temperature, above 0.</param>
    /// <param name="distance">Which.</param>
    /// <returns>A scalar, float32 (float64 for float64 logits).</returns>
    /// <exception cref="EspalierException">When shapes differ, or tau is not above 0.</exception>
    public static Tensor LogitLoss(Tensor student, Tensor teacher, double tau = 1, LogitDistance distance = LogitDistance.Kld)
    {
        RequireTemperature(tau);
        EspalierException.Require(student.dim() >= 1 && student.numel() > 0 && student.shape.AsSpan().SequenceEqual(teacher.shape),
            $"The student's logits are [{string.Join(", ", student.shape)}], the teacher's [{string.Join(", ", teacher.shape)}]; both need the same vocabulary and the same tokens.");
        using var scope = NewDisposeScope();
        Tensor s = nn.functional.log_softmax(Wide(student) / tau, -1), t = nn.functional.log_softmax(Wide(teacher.detach()) / tau, -1);
        Tensor perToken = distance switch
        {
            LogitDistance.Kld => (t.exp() * (t - s)).sum(-1),
            LogitDistance.Rkld => (s.exp() * (s - t)).sum(-1),
            LogitDistance.Mse => (s.exp() - t.exp()).pow(2).mean([-1]),
            _ => 1 - Cosine(s.exp(), t.exp()),
        };
        return perToken.mean().MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Step 7: L = L_logits (+ L_CLM) + alpha·L_is, with alpha = L_logits / L_is anew in every step and without gradient, and
    /// L_is = mean over all elements of (h_student·Pᵀ − h_teacher)².
    /// </summary>
    /// <param name="student">Logits [batch, tokens, V]; gradients flow to them.</param>
    /// <param name="teacher">Logits of the same shape; a constant.</param>
    /// <param name="hidden">Hidden states to match; gradients flow to the student's and to P. Null for logits only.</param>
    /// <param name="labels">[batch, tokens], int64, not shifted: label t belongs to logits t. Null reports no cross-entropy.</param>
    /// <param name="useCrossEntropy">Adds L_CLM; needs labels.</param>
    /// <param name="tau">The temperature, above 0.</param>
    /// <param name="distance">The distance of L_logits.</param>
    /// <exception cref="EspalierException">When shapes differ, or labels are missing.</exception>
    public static MinitronLoss TotalLoss(
        Tensor student, Tensor teacher, HiddenPair? hidden = null, Tensor? labels = null, bool useCrossEntropy = false, double tau = 1, LogitDistance distance = LogitDistance.Kld)
    {
        EspalierException.Require(labels is not null || !useCrossEntropy, "The cross-entropy needs the next tokens as labels; give them, or turn use_cross_entropy off.");
        EspalierException.Require(labels is null || labels.shape.AsSpan().SequenceEqual(student.shape.AsSpan(0, student.shape.Length - 1)),
            $"Labels [{string.Join(", ", labels?.shape ?? [])}] do not fit logits [{string.Join(", ", student.shape)}]; one label belongs to each token.");
        using var scope = NewDisposeScope();
        Tensor logits = LogitLoss(student, teacher, tau, distance);
        Tensor states = hidden is null ? zeros_like(logits) : HiddenLoss(hidden);
        Tensor? crossEntropy = labels is null ? null : nn.functional.cross_entropy(Wide(student).reshape(-1, student.shape[^1]), labels.reshape(-1));

        Tensor alpha = Alpha(logits, states);
        Tensor loss = hidden is null ? logits : logits + alpha * states;
        loss = useCrossEntropy ? loss + crossEntropy! : loss;
        return new MinitronLoss(
            loss.MoveToOuterDisposeScope(), logits.MoveToOuterDisposeScope(), states.MoveToOuterDisposeScope(),
            crossEntropy?.MoveToOuterDisposeScope(), alpha.MoveToOuterDisposeScope());
    }

    /// <summary>alpha = L_logits / L_is as a constant; a perfect match of the states has alpha 0, not infinity.</summary>
    internal static Tensor Alpha(Tensor logits, Tensor states)
    {
        using var scope = NewDisposeScope();
        Tensor constant = states.detach();
        return where(constant.eq(0), zeros_like(constant), logits.detach() / constant.masked_fill(constant.eq(0), 1)).MoveToOuterDisposeScope();
    }

    /// <summary>L_is of one place: mean over all elements of (h_student·Pᵀ − h_teacher)².</summary>
    internal static Tensor HiddenLoss(HiddenPair pair)
    {
        (Tensor student, Tensor teacher, Tensor P) = pair;
        EspalierException.Require(P.dim() == 2 && P.shape[0] == teacher.shape[^1] && P.shape[1] == student.shape[^1]
            && student.shape.AsSpan(0, student.shape.Length - 1).SequenceEqual(teacher.shape.AsSpan(0, teacher.shape.Length - 1)),
            $"A projection [{string.Join(", ", P.shape)}] does not map the student's states [{string.Join(", ", student.shape)}] to the teacher's [{string.Join(", ", teacher.shape)}]; it must be [teacher width, student width].");
        using var scope = NewDisposeScope();
        return (Wide(student).matmul(Wide(P).t()) - Wide(teacher.detach())).pow(2).mean().MoveToOuterDisposeScope();
    }

    private static Tensor Cosine(Tensor a, Tensor b) =>
        (a * b).sum(-1) / (a.pow(2).sum(-1).sqrt().clamp_min(SmallestNorm) * b.pow(2).sum(-1).sqrt().clamp_min(SmallestNorm));

    // The storage types of checkpoints are too narrow for probabilities.
    internal static Tensor Wide(Tensor x) => x.dtype is ScalarType.Float64 ? x : x.to(ScalarType.Float32);

    private static void RequireTemperature(double tau) =>
        EspalierException.Require(tau > 0 && double.IsFinite(tau), FormattableString.Invariant($"A temperature of {tau} is not possible; it must be above 0."));
}
