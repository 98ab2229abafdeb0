using System.Text;
using Espalier.Data;

namespace Espalier.Evaluation.Tasks;

/// <summary>How the likelihoods of choices are compared. Ties go to the first choice.</summary>
public enum ChoiceMetric
{
    /// <summary><c>acc</c>: the sum of a choice's log-probabilities.</summary>
    Sum,

    /// <summary><c>acc_norm</c>: the sum divided by the characters (Unicode code points) of the choice.</summary>
    PerCharacter,

    /// <summary><c>acc_bytes</c>: the sum divided by the UTF-8 bytes of the choice.</summary>
    PerByte,

    /// <summary><c>acc_tokens</c>: the sum divided by the tokens scored. The harness has no such metric.</summary>
    PerToken,
}

/// <summary>A multiple-choice task: what its data is called and how a row becomes a question.</summary>
public sealed record ChoiceTask
{
    private static readonly ChoiceMetric[] everyMetric = Enum.GetValues<ChoiceMetric>();

    /// <summary>Its name, as in the lm-evaluation-harness ("arc_easy").</summary>
    public required string Name { get; init; }

    /// <summary>What it asks, in a few words.</summary>
    public required string Summary { get; init; }

    /// <summary>The version of the harness's description that prompts and scoring follow.</summary>
    public decimal Version { get; init; } = 1.0m;

    /// <summary>Where the data lies on the hub: id, configuration and the split that is scored.</summary>
    public required DataReference Data { get; init; }

    /// <summary>The split that few-shot examples come from.</summary>
    public string ExampleSplit { get; init; } = "train";

    /// <summary>The columns that <see cref="Read"/> looks at.</summary>
    public required IReadOnlyList<TaskColumn> Columns { get; init; }

    /// <summary>From a row to its question; an <see cref="Runtime.EspalierException"/> out of it gets file, row and task put before it.</summary>
    public required Func<TaskRow, ChoiceQuestion> Read { get; init; }

    /// <summary>What is reported. Default: all; tasks with choices of one word, or with the choice in the prompt, report <c>acc</c> only.</summary>
    public IReadOnlyList<ChoiceMetric> Metrics { get; init; } = everyMetric;

    /// <summary>The name that the harness gives a metric ("acc_norm").</summary>
    public static string NameOf(ChoiceMetric metric) => metric switch
    {
        ChoiceMetric.Sum => "acc",
        ChoiceMetric.PerCharacter => "acc_norm",
        ChoiceMetric.PerByte => "acc_bytes",
        _ => "acc_tokens",
    };

    /// <summary>The choice that a metric takes: that of the largest score, the first among equals.</summary>
    /// <param name="metric">How to compare.</param>
    /// <param name="answers">The choices' texts, without the delimiter.</param>
    /// <param name="scores">Their likelihoods.</param>
    public static int Pick(ChoiceMetric metric, IReadOnlyList<string> answers, IReadOnlyList<LikelihoodScore> scores)
    {
        int best = 0;
        double bestValue = double.NegativeInfinity;
        for (int i = 0; i < scores.Count; i++)
        {
            double length = metric switch
            {
                ChoiceMetric.Sum => 1,
                ChoiceMetric.PerCharacter => answers[i].EnumerateRunes().Count(),
                ChoiceMetric.PerByte => Encoding.UTF8.GetByteCount(answers[i]),
                _ => scores[i].Tokens,
            };
            double value = scores[i].LogLikelihood / length;
            if (value > bestValue)
            {
                (best, bestValue) = (i, value);
            }
        }

        return best;
    }
}
