using Espalier.Runtime;

namespace Espalier.Evaluation.Tasks;

/// <summary>A question to a model: how likely does it go on like this?</summary>
/// <param name="Context">What is read.</param>
/// <param name="Continuation">What is scored, with the delimiter before it (" yes").</param>
public sealed record LikelihoodRequest(string Context, string Continuation);

/// <summary>How likely a continuation is.</summary>
/// <param name="LogLikelihood">The sum of its tokens' log-probabilities, in nats.</param>
/// <param name="Tokens">The tokens scored.</param>
public readonly record struct LikelihoodScore(double LogLikelihood, int Tokens);

/// <summary>Whatever can say how likely a text goes on in a certain way.</summary>
public interface ILikelihood
{
    /// <summary>Scores continuations.</summary>
    /// <param name="requests">The questions; they may be answered in any order, but are returned in this one.</param>
    /// <param name="name">What to call the work ("scoring arc_easy").</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>A score for each request.</returns>
    IReadOnlyList<LikelihoodScore> Score(IReadOnlyList<LikelihoodRequest> requests, string name, IProgressSink progress, CancellationToken cancellation);
}
