using Espalier.Runtime;

namespace Espalier.Evaluation.Tasks;

/// <summary>How multiple-choice tasks are put to a model.</summary>
public sealed record MultipleChoiceOptions
{
    /// <summary>How many solved examples stand before each question. Default 0.</summary>
    public int FewShot
    {
        get;
        init
        {
            EspalierException.Require(value >= 0, $"{value} few-shot examples are not possible; give 0 or more.");
            field = value;
        }
    }

    /// <summary>Only the first so many questions of each task; null (the default) takes all.</summary>
    public int? Limit
    {
        get;
        init
        {
            EspalierException.Require(value is null or > 0, $"A limit of {value} questions is not possible; give 1 or more, or leave it out.");
            field = value;
        }
    }

    /// <summary>Fixes which examples are drawn. Default 0.</summary>
    public Seed Seed { get; init; }
}

/// <summary>
/// Multiple choice by likelihood, as the lm-evaluation-harness scores it: every choice is a continuation of the prompt, and the
/// likeliest is the model's answer. Nothing is generated.
/// </summary>
/// <example>
/// <code>
/// using StreamedModel model = StreamedModel.Open(folder);
/// TaskData data = TaskData.Open(ChoiceTasks.Find("arc_easy"), resolveHubDataset: id => Hub.ResolveDataset(id, progress));
/// TaskResult result = MultipleChoice.Evaluate(data, ModelLikelihood.Of(model, Tokenizer.Load(folder)));
/// double accuracy = result[ChoiceMetric.Sum].Value, normalised = result[ChoiceMetric.PerCharacter].Value;
/// </code>
/// </example>
public static class MultipleChoice
{
    /// <summary>What stands after each few-shot example.</summary>
    public const string ExampleDelimiter = "\n\n";

    /// <summary>Puts a task to a model.</summary>
    /// <param name="data">The questions; with examples where <see cref="MultipleChoiceOptions.FewShot"/> asks for some.</param>
    /// <param name="likelihood">The model.</param>
    /// <param name="options">How; null takes every question with no examples.</param>
    /// <param name="progress">Where progress is told; null for silence.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <exception cref="EspalierException">When there are fewer examples than asked for, or the model cannot score a choice.</exception>
    public static TaskResult Evaluate(TaskData data, ILikelihood likelihood, MultipleChoiceOptions? options = null, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        options ??= new MultipleChoiceOptions();
        RequireExamples(data, options);
        ChoiceQuestion[] questions = [.. data.Questions.Take(options.Limit ?? int.MaxValue)];
        LikelihoodRequest[] requests = [.. questions.Index().SelectMany(q => Requests(q.Item, Examples(data, q.Index, options)))];
        IReadOnlyList<LikelihoodScore> scores = likelihood.Score(requests, $"scoring {data.Task.Name}", progress ?? SilentProgress.Instance, cancellation);
        int[] right = new int[data.Task.Metrics.Count];
        int next = 0;
        foreach (ChoiceQuestion question in questions)
        {
            LikelihoodScore[] ofQuestion = [.. scores.Skip(next).Take(question.Answers.Count)];
            next += question.Answers.Count;
            foreach ((int m, ChoiceMetric metric) in data.Task.Metrics.Index())
            {
                right[m] += ChoiceTask.Pick(metric, question.Answers, ofQuestion) == question.Gold ? 1 : 0;
            }
        }

        return new TaskResult(data.Task, data.Source, [.. data.Task.Metrics.Select((metric, m) => TaskScore.Of(metric, right[m], questions.Length))], questions.Length, data.Questions.Count);
    }

    /// <summary>Checks, before any work, that there are as many examples as are asked for.</summary>
    /// <exception cref="EspalierException">When there are fewer.</exception>
    public static void RequireExamples(TaskData data, MultipleChoiceOptions options) => EspalierException.Require(
        data.Examples.Count >= options.FewShot,
        $"{options.FewShot} few-shot examples are asked for, but the task {data.Task.Name} has {data.Examples.Count} in its split \"{data.Task.ExampleSplit}\"; ask for fewer.");

    /// <summary>The text before a question: solved examples, drawn without replacement from a stream of the question's own.</summary>
    /// <param name="data">Where the examples come from.</param>
    /// <param name="question">The number of the question in its split, from 0: a limit changes no other question's examples.</param>
    /// <param name="options">How many, and the seed.</param>
    /// <returns>Examples, each followed by <see cref="ExampleDelimiter"/>; empty for none.</returns>
    public static string Examples(TaskData data, int question, MultipleChoiceOptions options)
    {
        if (options.FewShot == 0)
        {
            return "";
        }

        Random random = options.Seed.Random($"few-shot {data.Task.Name} {question}");
        var drawn = new List<int>(options.FewShot);
        while (drawn.Count < options.FewShot)
        {
            int one = random.Next(data.Examples.Count);
            if (!drawn.Contains(one))
            {
                drawn.Add(one);
            }
        }

        return string.Concat(drawn.Select(i => data.Examples[i].Solved + ExampleDelimiter));
    }

    private static IEnumerable<LikelihoodRequest> Requests(ChoiceQuestion question, string examples) =>
        question.Prompts.Zip(question.Answers, (prompt, answer) => new LikelihoodRequest(examples + prompt, ChoiceQuestion.AnswerDelimiter + answer));
}
