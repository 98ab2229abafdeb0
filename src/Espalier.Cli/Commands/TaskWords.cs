using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Evaluation.Tasks;
using Espalier.Runtime;
using Spectre.Console;
using Table = Spectre.Console.Table;
using Text = Espalier.Runtime.Text;

namespace Espalier.Cli.Commands;

/// <summary>Multiple-choice tasks on the command line: their names, their data, and tables of them.</summary>
internal static class TaskWords
{
    /// <summary>The word that lists the tasks.</summary>
    public const string List = "list";

    /// <summary>Reads <c>arc_easy,piqa</c> and <c>arc_easy=./arc.jsonl</c>, and opens the data.</summary>
    /// <exception cref="EspalierException">When a task is unknown, data is for none of the tasks, or data cannot be read.</exception>
    public static IReadOnlyList<TaskData> Open(string names, IReadOnlyList<string> data, MultipleChoiceOptions options, CommandContext context, CancellationToken cancellation)
    {
        ChoiceTask[] tasks = Named(names);
        var sources = new Dictionary<string, DataReference>();
        foreach (string word in data)
        {
            int equals = word.IndexOf('=', StringComparison.Ordinal);
            EspalierException.Require(equals > 0, $"--task-data {word} cannot be read; write the task, an equals sign and its data, as in arc_easy=./arc.jsonl.");
            string name = word[..equals];
            EspalierException.Require(tasks.Any(t => t.Name == name),
                $"--task-data {word} is for '{name}', which is none of the tasks to run ({string.Join(", ", tasks.Select(t => t.Name))}).{NearestWord.Suggest(name, tasks.Select(t => t.Name))}");
            EspalierException.Require(sources.TryAdd(name, DataReference.Parse(word[(equals + 1)..])), $"--task-data names data for {name} twice; name it once.");
        }

        TaskData[] opened = [.. tasks.Select(task => TaskData.Open(
            task, sources.GetValueOrDefault(task.Name), id => Hub.ResolveDataset(id, context.Progress, cancellation: cancellation), options.FewShot > 0))];
        foreach (TaskData one in opened)
        {
            MultipleChoice.RequireExamples(one, options);
        }

        return opened;
    }

    /// <summary>The tasks of <c>arc_easy,piqa</c>, each once.</summary>
    /// <exception cref="EspalierException">For an unknown one, or none.</exception>
    public static ChoiceTask[] Named(string names)
    {
        ChoiceTask[] tasks = [.. names.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries).Distinct().Select(ChoiceTasks.Find)];
        EspalierException.Require(tasks.Length > 0, $"--tasks names no task; for example --tasks {ChoiceTasks.All[0].Name},{ChoiceTasks.All[1].Name}.");
        return tasks;
    }

    /// <summary>The known tasks as a result.</summary>
    public static void ShowList(CommandContext context) => context.Show(
        ChoiceTasks.All.Select(t => new { t.Name, t.Summary, data = t.Data.ToString(), metrics = t.Metrics.Select(ChoiceTask.NameOf), t.Version }),
        () => PrintList(context.Console));

    /// <summary>The known tasks as a table.</summary>
    internal static void PrintList(IAnsiConsole console)
    {
        Table table = new Table().Border(TableBorder.Rounded).AddColumn("task").AddColumn("what it asks").AddColumn(new("data") { NoWrap = true }).AddColumn("metrics");
        foreach (ChoiceTask task in ChoiceTasks.All)
        {
            table.AddRow(Markup.Escape(task.Name), Markup.Escape(task.Summary), Markup.Escape(task.Data.ToString()), string.Join(", ", task.Metrics.Select(ChoiceTask.NameOf)));
        }

        console.Write(table);
    }

    /// <summary>Results as a table: a line for each metric.</summary>
    internal static void Print(IAnsiConsole console, IReadOnlyList<TaskResult> results, int fewShot)
    {
        Table table = new Table().Border(TableBorder.Rounded).AddColumn("task").AddColumn(new("version") { Alignment = Justify.Right })
            .AddColumn(new("shots") { Alignment = Justify.Right }).AddColumn("metric").AddColumn(new("value") { Alignment = Justify.Right }).AddColumn(new("n") { Alignment = Justify.Right });
        foreach (TaskResult result in results)
        {
            foreach ((int i, TaskScore score) in result.Scores.Index())
            {
                string error = double.IsNaN(score.StandardError) ? "" : string.Create(CultureInfo.InvariantCulture, $" ± {score.StandardError:0.0000}");
                string[] task = i > 0 ? ["", "", ""] : [result.Task.Name, result.Task.Version.ToString(CultureInfo.InvariantCulture), Text.Count(fewShot)];
                table.AddRow([.. task, ChoiceTask.NameOf(score.Metric), string.Create(CultureInfo.InvariantCulture, $"{score.Value:0.0000}{error}"), Text.Count(result.Questions)]);
            }
        }

        console.Write(table);
    }
}
