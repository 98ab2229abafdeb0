using System.Text.RegularExpressions;
using Espalier.Data;
using Espalier.Runtime;

namespace Espalier.Evaluation.Tasks;

/// <summary>
/// The multiple-choice tasks that pruning papers quote. Prompts, choices, splits and versions follow the task descriptions of
/// the lm-evaluation-harness (EleutherAI), in its <c>lm_eval/tasks</c>.
/// </summary>
public static partial class ChoiceTasks
{
    /// <summary>All of them, by name.</summary>
    public static IReadOnlyList<ChoiceTask> All { get; } =
    [
        Science("arc_challenge", "grade-school science, the harder questions", "ARC-Challenge"),
        Science("arc_easy", "grade-school science, the easier questions", "ARC-Easy"),
        new()
        {
            Name = "boolq",
            Summary = "yes or no to a question about a passage",
            Version = 2.0m,
            Data = Hub("aps/super_glue", "boolq", "validation"),
            Columns = [new("passage"), new("question"), new("label", OrElse: "answer")], // google/boolq calls it answer
            Read = row => new ChoiceQuestion($"{row["passage"]}\nQuestion: {row["question"]}?\nAnswer:", ["no", "yes"], row.Number("label")),
            Metrics = [ChoiceMetric.Sum],
        },
        new()
        {
            Name = "hellaswag",
            Summary = "how a scene goes on",
            Data = Hub("Rowan/hellaswag", null, "validation"),
            Columns = [new("activity_label"), new("ctx_a"), new("ctx_b"), new("endings", IsList: true), new("label")],
            Read = row => new ChoiceQuestion(
                WithoutBrackets($"{row["activity_label"]}: {row["ctx_a"]} {Capitalized(row["ctx_b"])}"), [.. row.List("endings").Select(WithoutBrackets)], row.Number("label")),
        },
        new()
        {
            Name = "openbookqa",
            Summary = "elementary science that needs a fact and common sense",
            Data = Hub("allenai/openbookqa", "main", "test"),
            Columns = [new("question_stem"), new("choices.text", IsList: true), new("choices.label", IsList: true), new("answerKey")],
            Read = row => new ChoiceQuestion(row["question_stem"], row.List("choices.text"), row.Place("answerKey", row.List("choices.label"))),
        },
        new()
        {
            Name = "piqa",
            Summary = "which of two ways reaches a goal in the physical world",
            Data = Hub("baber/piqa", null, "validation"),
            Columns = [new("goal"), new("sol1"), new("sol2"), new("label")],
            Read = row => new ChoiceQuestion($"Question: {row["goal"]}\nAnswer:", [row["sol1"], row["sol2"]], row.Number("label")),
        },
        new()
        {
            Name = "rte",
            Summary = "whether a sentence follows from another",
            Data = Hub("nyu-mll/glue", "rte", "validation"),
            Columns = [new("sentence1"), new("sentence2"), new("label")],
            Read = row => new ChoiceQuestion($"{row["sentence1"]}\nQuestion: {row["sentence2"]} True or False?\nAnswer:", ["True", "False"], row.Number("label")),
            Metrics = [ChoiceMetric.Sum],
        },
        new()
        {
            Name = "winogrande",
            Summary = "which of two names fills a blank",
            Data = Hub("allenai/winogrande", "winogrande_xl", "validation"),
            Columns = [new("sentence"), new("option1"), new("option2"), new("answer")],
            Read = Blank,
            Metrics = [ChoiceMetric.Sum],
        },
    ];

    /// <summary>The task of a name.</summary>
    /// <exception cref="EspalierException">When there is none; suggests the nearest.</exception>
    public static ChoiceTask Find(string name) => All.FirstOrDefault(t => t.Name == name) ?? throw new EspalierException(
        $"There is no task '{name}'; there are {string.Join(", ", All.Select(t => t.Name))}.{NearestWord.Suggest(name, All.Select(t => t.Name))}");

    private static DataReference Hub(string id, string? config, string split) => new() { Source = id, IsPath = false, Config = config, Split = split };

    private static ChoiceTask Science(string name, string summary, string config) => new()
    {
        Name = name,
        Summary = summary,
        Data = Hub("allenai/ai2_arc", config, "test"),
        Columns = [new("question"), new("choices.text", IsList: true), new("choices.label", IsList: true), new("answerKey")],
        Read = row => new ChoiceQuestion($"Question: {row["question"]}\nAnswer:", row.List("choices.text"), row.Place("answerKey", row.List("choices.label"))),
    };

    /// <summary>The sentence up to the blank with either option in it; what follows the blank is scored.</summary>
    private static ChoiceQuestion Blank(TaskRow row)
    {
        string sentence = row["sentence"];
        int blank = sentence.IndexOf('_', StringComparison.Ordinal);
        EspalierException.Require(blank >= 0, "The sentence has no blank (_).");
        return new ChoiceQuestion([sentence[..blank] + row["option1"], sentence[..blank] + row["option2"]], sentence[(blank + 1)..].Trim(), row.Number("answer") - 1);
    }

    /// <summary>Takes out the marks that HellaSwag's WikiHow part has kept: "[header]", "[title]", "[step]".</summary>
    private static string WithoutBrackets(string text) =>
        Bracketed().Replace(text.Trim().Replace(" [title]", ". ", StringComparison.Ordinal), "").Replace("  ", " ", StringComparison.Ordinal);

    /// <summary>The first letter large and all others small.</summary>
    private static string Capitalized(string text) => text.Length == 0 ? text : char.ToUpperInvariant(text[0]) + text[1..].ToLowerInvariant();

    [GeneratedRegex(@"\[.*?\]")]
    private static partial Regex Bracketed();
}
