using Espalier.Data;
using Espalier.Runtime;

namespace Espalier.Evaluation.Tasks;

/// <summary>A task with its questions read.</summary>
public sealed record TaskData
{
    /// <summary>The task.</summary>
    public required ChoiceTask Task { get; init; }

    /// <summary>Where the questions come from.</summary>
    public required DataReference Source { get; init; }

    /// <summary>Every question of the split.</summary>
    public required IReadOnlyList<ChoiceQuestion> Questions { get; init; }

    /// <summary>The questions that few-shot examples are drawn from; none where they were not asked for.</summary>
    public IReadOnlyList<ChoiceQuestion> Examples { get; init; } = [];

    /// <summary>Reads a task's questions.</summary>
    /// <param name="task">The task.</param>
    /// <param name="source">
    /// Where its data lies if not at its usual place on the hub: another hub id, a folder with a file for each split, or one file.
    /// What the reference leaves open (the split; on the task's own hub id the configuration too) is as usual.
    /// </param>
    /// <param name="resolveHubDataset">From a hub id to the folder of its snapshot; null when only files are allowed.</param>
    /// <param name="withExamples">Read the examples for few-shot prompts too.</param>
    /// <exception cref="EspalierException">When files, splits or columns are missing, there is no question, or a row is none.</exception>
    public static TaskData Open(ChoiceTask task, DataReference? source = null, Func<string, string>? resolveHubDataset = null, bool withExamples = false)
    {
        DataReference reference = source ?? task.Data;
        EspalierException.Require(reference.Column is null, $"The data of the task {task.Name} is named with a column (#{reference.Column}); a task knows its columns, so leave that out.");
        bool isFile = reference.IsPath && File.Exists(reference.Source);
        EspalierException.Require(!(withExamples && isFile),
            $"Few-shot examples of the task {task.Name} come from the split \"{task.ExampleSplit}\", but \"{reference.Source}\" is one file; give a folder with a file for each split.");
        reference = isFile ? reference : reference with
        {
            Config = reference.Config ?? (reference.Source == task.Data.Source ? task.Data.Config : null),
            Split = reference.Split ?? task.Data.Split,
        };
        return new TaskData
        {
            Task = task,
            Source = reference,
            Questions = Read(task, reference, resolveHubDataset),
            Examples = withExamples ? Read(task, reference with { Split = task.ExampleSplit }, resolveHubDataset) : [],
        };
    }

    private static ChoiceQuestion[] Read(ChoiceTask task, DataReference reference, Func<string, string>? resolveHubDataset)
    {
        ChoiceQuestion[] questions = [.. DataFiles.Find(reference, resolveHubDataset, Table.Extensions).SelectMany(file => TaskRow.Read(Table.Open(file), task))];
        EspalierException.Require(questions.Length > 0, $"The data \"{reference}\" of the task {task.Name} is empty: it has no question.");
        return questions;
    }
}
