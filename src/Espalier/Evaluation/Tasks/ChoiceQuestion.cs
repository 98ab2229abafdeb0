using Espalier.Runtime;

namespace Espalier.Evaluation.Tasks;

/// <summary>A question with its possible answers, as a model is to see it.</summary>
/// <remarks>
/// Mostly the prompt is the same for all choices and the answers differ. Where the choice stands in the prompt (WinoGrande's
/// blank), the prompts differ and what follows is the same: only what follows is scored ("partial scoring").
/// </remarks>
public sealed record ChoiceQuestion
{
    /// <summary>What stands between a prompt and its answer.</summary>
    public const string AnswerDelimiter = " ";

    /// <summary>What is read, for each choice.</summary>
    public IReadOnlyList<string> Prompts { get; }

    /// <summary>What is scored, for each choice, without the delimiter.</summary>
    public IReadOnlyList<string> Answers { get; }

    /// <summary>The number of the right choice, from 0.</summary>
    public int Gold { get; }

    /// <summary>The question with its right answer, as an example for few-shot prompts.</summary>
    public string Solved => Prompts[Gold] + AnswerDelimiter + Answers[Gold];

    /// <summary>Makes a question with one prompt.</summary>
    /// <param name="prompt">What is read.</param>
    /// <param name="answers">The choices.</param>
    /// <param name="gold">The number of the right one, from 0.</param>
    /// <exception cref="EspalierException">When there are fewer than two choices or <paramref name="gold"/> is none of them.</exception>
    public ChoiceQuestion(string prompt, IReadOnlyList<string> answers, int gold)
        : this([.. answers.Select(_ => prompt)], answers, gold)
    {
    }

    /// <summary>Makes a question with a prompt for each choice and the same continuation for all.</summary>
    /// <param name="prompts">What is read, for each choice.</param>
    /// <param name="continuation">What is scored after each.</param>
    /// <param name="gold">The number of the right choice, from 0.</param>
    /// <exception cref="EspalierException">When there are fewer than two choices or <paramref name="gold"/> is none of them.</exception>
    public ChoiceQuestion(IReadOnlyList<string> prompts, string continuation, int gold)
        : this(prompts, [.. prompts.Select(_ => continuation)], gold)
    {
    }

    private ChoiceQuestion(IReadOnlyList<string> prompts, IReadOnlyList<string> answers, int gold)
    {
        EspalierException.Require(prompts.Count >= 2, $"The question has {prompts.Count} choices; it needs at least two.");
        EspalierException.Require(gold >= 0 && gold < prompts.Count, $"The label says choice {gold} (counted from 0), but there are {prompts.Count} choices; use a split with answers.");
        (Prompts, Answers, Gold) = (prompts, answers, gold);
    }
}
