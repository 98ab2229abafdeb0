namespace Espalier.Evaluation.Tasks;

/// <summary>A share of questions answered rightly.</summary>
/// <param name="Metric">How choices were compared.</param>
/// <param name="Value">The share, from 0 to 1.</param>
/// <param name="StandardError">√(p(1 − p)/(n − 1)), the sample deviation over √n; NaN for one question.</param>
public sealed record TaskScore(ChoiceMetric Metric, double Value, double StandardError)
{
    /// <summary>The score of so many right answers.</summary>
    public static TaskScore Of(ChoiceMetric metric, int right, int questions)
    {
        double share = (double)right / questions;
        return new TaskScore(metric, share, questions == 1 ? double.NaN : Math.Sqrt(share * (1 - share) / (questions - 1)));
    }
}

/// <summary>What came out of a task.</summary>
/// <param name="Task">The task.</param>
/// <param name="Source">Where its questions came from.</param>
/// <param name="Scores">A score for each of the task's metrics, <c>acc</c> first.</param>
/// <param name="Questions">The questions scored.</param>
/// <param name="Available">The questions of the split; more than were scored where a limit was set.</param>
public sealed record TaskResult(ChoiceTask Task, Data.DataReference Source, IReadOnlyList<TaskScore> Scores, int Questions, int Available)
{
    /// <summary>The score of a metric.</summary>
    /// <exception cref="KeyNotFoundException">When the task does not report it.</exception>
    public TaskScore this[ChoiceMetric metric] => Scores.FirstOrDefault(s => s.Metric == metric) ?? throw new KeyNotFoundException($"{Task.Name} does not report {ChoiceTask.NameOf(metric)}.");
}
