using System.Text.Json.Serialization;
using Espalier.Evaluation.Tasks;
using Espalier.Runtime;
using Parquet.Serialization;

namespace Espalier.Tests.Evaluation.Tasks;

/// <summary>Small files in the form in which the tasks' data is published.</summary>
internal static class TaskFiles
{
    public const string Arc = """{"id":"a","question":"Which gas do plants take in?","choices":{"text":["oxygen","carbon dioxide","helium"],"label":["A","B","C"]},"answerKey":"B"}""";

    public const string Piqa = """{"goal":"Open a jar","sol1":"Twist the lid","sol2":"Sing to it","label":0}""";

    public const string Winogrande = """{"sentence":"The cup did not fit in the box because the _ was too big. ","option1":"cup","option2":"box","answer":"1"}""";

    /// <summary>A row of each task, by name.</summary>
    public static IReadOnlyDictionary<string, string> Rows { get; } = new Dictionary<string, string>
    {
        ["arc_challenge"] = """{"question":"Two?","choices":{"text":["x","y","z","w"],"label":["1","2","3","4"]},"answerKey":"4"}""",
        ["arc_easy"] = Arc,
        ["boolq"] = """{"question":"is the sky blue","passage":"The sky is blue.","idx":0,"label":1}""",
        ["hellaswag"] = """{"ind":1,"activity_label":"Making tea","ctx_a":"[header] How to make tea [title] Boil water.","ctx_b":"a Woman","endings":[" pours it [step] in a cup."," flies  away.","sleeps."],"label":"0"}""",
        ["openbookqa"] = """{"question_stem":"Birds can","choices":{"text":["fly","melt"],"label":["A","B"]},"answerKey":" A"}""",
        ["piqa"] = Piqa,
        ["rte"] = """{"sentence1":"A cat sleeps.","sentence2":"A cat is awake.","label":1,"idx":0}""",
        ["winogrande"] = Winogrande,
    };

    /// <summary>Writes rows, a line each, and opens them as a task's data.</summary>
    public static TaskData Open(TemporaryFolder folder, string task, params string[] rows)
    {
        File.WriteAllLines(folder["rows.jsonl"], rows);
        return TaskData.Open(ChoiceTasks.Find(task), Espalier.Data.DataReference.Parse(folder["rows.jsonl"]));
    }

    /// <summary>The same rows as in <see cref="Rows"/>, in parquet with structs and lists, and with the label as the hub's files have it.</summary>
    public static async Task WriteParquetAsync(string arc, string hellaswag)
    {
        await using (FileStream stream = File.Create(arc))
        {
            await ParquetSerializer.SerializeAsync<ArcRow>(
                [
                    new() { Question = "Which gas do plants take in?", Choices = new() { Text = ["oxygen", "carbon dioxide", "helium"], Label = ["A", "B", "C"] }, AnswerKey = "B" },
                    new() { Question = "Two?", Choices = new() { Text = ["x", "y"], Label = ["1", "2"] }, AnswerKey = "2" },
                ],
                stream);
        }

        await using (FileStream stream = File.Create(hellaswag))
        {
            await ParquetSerializer.SerializeAsync<SceneRow>(
                [new() { Activity = "Making tea", First = "[header] How to make tea [title] Boil water.", Second = "a Woman", Endings = [" pours it [step] in a cup.", " flies  away.", "sleeps."], Label = "0" }],
                stream);
        }
    }

    private sealed class ArcRow
    {
        [JsonPropertyName("question")]
        public string Question { get; set; } = "";

        [JsonPropertyName("choices")]
        public ChoicesOfRow Choices { get; set; } = new();

        [JsonPropertyName("answerKey")]
        public string AnswerKey { get; set; } = "";
    }

    private sealed class ChoicesOfRow
    {
        [JsonPropertyName("text")]
        public List<string> Text { get; set; } = [];

        [JsonPropertyName("label")]
        public List<string> Label { get; set; } = [];
    }

    private sealed class SceneRow
    {
        [JsonPropertyName("activity_label")]
        public string Activity { get; set; } = "";

        [JsonPropertyName("ctx_a")]
        public string First { get; set; } = "";

        [JsonPropertyName("ctx_b")]
        public string Second { get; set; } = "";

        [JsonPropertyName("endings")]
        public List<string> Endings { get; set; } = [];

        [JsonPropertyName("label")]
        public string Label { get; set; } = "";
    }
}

/// <summary>A model that says what the test wants, and remembers what it was asked.</summary>
internal sealed class Oracle(Func<LikelihoodRequest, LikelihoodScore> answer) : ILikelihood
{
    public List<LikelihoodRequest> Asked { get; } = [];

    public IReadOnlyList<LikelihoodScore> Score(IReadOnlyList<LikelihoodRequest> requests, string name, IProgressSink progress, CancellationToken cancellation)
    {
        Asked.AddRange(requests);
        return [.. requests.Select(answer)];
    }
}
