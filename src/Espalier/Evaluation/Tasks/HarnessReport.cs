using System.Text.Json.Nodes;

namespace Espalier.Evaluation.Tasks;

/// <summary>Results laid out as the lm-evaluation-harness writes its <c>results.json</c>, for scripts that read those.</summary>
public static class HarnessReport
{
    /// <summary>Lays out results.</summary>
    /// <param name="results">What came out.</param>
    /// <param name="model">What the model is called: a folder or a hub id.</param>
    /// <param name="options">How the tasks were put.</param>
    /// <returns><c>results</c>, <c>group_subtasks</c>, <c>configs</c>, <c>versions</c>, <c>n-shot</c>, <c>higher_is_better</c>, <c>n-samples</c> and <c>config</c>.</returns>
    public static JsonObject Of(IReadOnlyList<TaskResult> results, string model, MultipleChoiceOptions options) => new()
    {
        ["results"] = PerTask(results, Scores),
        ["group_subtasks"] = PerTask(results, _ => new JsonArray()),
        ["configs"] = PerTask(results, r => Configuration(r, options)),
        ["versions"] = PerTask(results, r => r.Task.Version),
        ["n-shot"] = PerTask(results, _ => options.FewShot),
        ["higher_is_better"] = PerTask(results, r => new JsonObject(r.Scores.Select(s => KeyValuePair.Create(ChoiceTask.NameOf(s.Metric), (JsonNode?)true)))),
        ["n-samples"] = PerTask(results, r => new JsonObject { ["original"] = r.Available, ["effective"] = r.Questions }),
        ["config"] = new JsonObject
        {
            ["model"] = "espalier",
            ["model_args"] = $"pretrained={model}",
            ["limit"] = options.Limit,
            ["fewshot_seed"] = options.Seed.Value,
        },
    };

    private static JsonObject PerTask(IReadOnlyList<TaskResult> results, Func<TaskResult, JsonNode> value) =>
        new(results.Select(r => KeyValuePair.Create(r.Task.Name, (JsonNode?)value(r))));

    private static JsonObject Scores(TaskResult result)
    {
        var scores = new JsonObject { ["name"] = result.Task.Name, ["alias"] = result.Task.Name, ["sample_len"] = result.Questions };
        foreach (TaskScore score in result.Scores)
        {
            string name = ChoiceTask.NameOf(score.Metric);
            scores[$"{name},none"] = score.Value;
            scores[$"{name}_stderr,none"] = double.IsNaN(score.StandardError) ? "N/A" : score.StandardError;
        }

        return scores;
    }

    private static JsonObject Configuration(TaskResult result, MultipleChoiceOptions options) => new()
    {
        ["task"] = result.Task.Name,
        ["dataset_path"] = result.Source.Source,
        ["dataset_name"] = result.Source.Config,
        ["test_split"] = result.Source.Split,
        ["fewshot_split"] = result.Task.ExampleSplit,
        ["output_type"] = "multiple_choice",
        ["num_fewshot"] = options.FewShot,
        ["target_delimiter"] = ChoiceQuestion.AnswerDelimiter,
        ["fewshot_delimiter"] = MultipleChoice.ExampleDelimiter,
        ["metric_list"] = new JsonArray([.. result.Scores.Select(s => new JsonObject { ["metric"] = ChoiceTask.NameOf(s.Metric), ["aggregation"] = "mean", ["higher_is_better"] = true })]),
        ["metadata"] = new JsonObject { ["version"] = result.Task.Version },
    };
}
