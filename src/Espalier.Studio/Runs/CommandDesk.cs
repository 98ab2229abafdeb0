using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Espalier.Checkpoints;
using Espalier.Runs;
using Espalier.Runtime;
using Espalier.Studio.Models;
using Espalier.Training;

namespace Espalier.Studio.Runs;

/// <summary>A command as the form gives it.</summary>
/// <param name="Command">Its word.</param>
/// <param name="Values">What is given for each option or argument, by its name; models, texts, adapters and plans by their keys.</param>
/// <param name="Title">What to call the run.</param>
/// <param name="Tags">Its tags.</param>
public sealed record CommandDraft(string Command, IReadOnlyDictionary<string, IReadOnlyList<string>> Values, string? Title = null, IReadOnlyList<string>? Tags = null);

/// <summary>What the check of a command's draft says.</summary>
/// <param name="Ok">Whether it can be started.</param>
/// <param name="Line">The command line, as one would type it; null where the draft makes none.</param>
/// <param name="Error">What is wrong; null for nothing.</param>
/// <param name="Word">The option that is wrong, where that is known.</param>
public sealed record CommandCheck(bool Ok, string? Line, string? Error = null, string? Word = null);

/// <summary>Something a form lets one choose.</summary>
/// <param name="Key">What forms call it.</param>
/// <param name="Name">What people call it.</param>
public sealed record Choosable(string Key, string Name);

/// <summary>Turns drafts of commands into words of the command line. No word of a draft is taken for a path.</summary>
internal sealed class CommandDesk(StudioOptions options, ModelShelf shelf, TextShelf texts, RunShelf runs)
{
    // What a form shows as the output folder before there is one.
    private const string Out = "./out";

    // Behind the key of a model: its architecture alone, from random weights.
    private const string Random = ":random";

    private const int LongestValue = 500, MostValues = 40;

    /// <summary>The commands that have a form.</summary>
    public IReadOnlyList<CommandForm> Forms => options.Commands?.Forms ?? [];

    /// <summary>The form of a command.</summary>
    /// <exception cref="EspalierException">When it has none.</exception>
    public CommandForm Form(string command) => Forms.FirstOrDefault(f => f.Name == command)
        ?? throw new EspalierException($"There is no form for '{command}'.{NearestWord.Suggest(command, Forms.Select(f => f.Name))}");

    /// <summary>Whether a draft can be started, with its command line.</summary>
    public CommandCheck Check(CommandDraft draft)
    {
        string? line = null;
        try
        {
            IReadOnlyList<string> words = Words(draft, Out);
            line = ShellWords.Line(words);
            ToolWords read = options.Commands!.Read(words);
            return new CommandCheck(read.Error is null, line, read.Error, read.Field);
        }
        catch (EspalierException fault)
        {
            return new CommandCheck(false, line, fault.Message, draft.Values.Keys.FirstOrDefault(w => fault.Message.Contains(w, StringComparison.Ordinal)));
        }
    }

    /// <summary>The words of a draft, and what the tool reads in them.</summary>
    /// <param name="draft">The draft.</param>
    /// <param name="output">The folder that it writes to.</param>
    /// <exception cref="EspalierException">For what cannot be started.</exception>
    public (IReadOnlyList<string> Words, ToolWords Read) Read(CommandDraft draft, string output)
    {
        IReadOnlyList<string> words = Words(draft, output);
        ToolWords read = options.Commands!.Read(words);
        EspalierException.Require(read.Error is null, read.Error ?? "");
        return (words, read);
    }

    /// <summary>What can be chosen for a field, the most likely first.</summary>
    public async Task<IReadOnlyList<Choosable>> ChoicesAsync(CommandField field) => field.Takes switch
    {
        CommandTakes.Model => [.. shelf.All().Select(m => new Choosable(m.Key, Named(m)))],
        CommandTakes.Start => [.. shelf.All().Select(m => new Choosable(m.Key, Named(m))), .. shelf.All().Select(m => new Choosable(m.Key + Random, $"{Named(m)}, its shape with random weights"))],
        CommandTakes.Data => [.. texts.All().Select(t => new Choosable(t.Key, t.Name))],
        CommandTakes.Adapter => [.. (await AdaptersAsync().ConfigureAwait(false)).Select(a => a.Choice)],
        CommandTakes.Plan => [.. (await PlansAsync().ConfigureAwait(false)).Select(p => new Choosable(p.Id, Api.RunCard.NameOf(p) + " · " + p.ShortId))],
        _ => [.. field.Choices.Select(c => new Choosable(c, c))],
    };

    /// <summary>What the words of a run say in terms of its form: paths become keys, what the studio does not know is left out.</summary>
    public async Task<IReadOnlyDictionary<string, IReadOnlyList<string>>> ValuesOfAsync(Run run)
    {
        var values = new Dictionary<string, IReadOnlyList<string>>(StringComparer.Ordinal);
        IReadOnlyList<string> words = ShellWords.Of(run);
        if (words.Count == 0 || Forms.FirstOrDefault(f => f.Name == run.Command) is not { } form)
        {
            return values;
        }

        IReadOnlyDictionary<string, IReadOnlyList<string>> given = options.Commands!.Read(words).Given;
        foreach (CommandField field in form.Fields.Where(f => given.ContainsKey(f.Name)))
        {
            IReadOnlyList<Choosable> choices = await ChoicesAsync(field).ConfigureAwait(false);
            string Full(string path) => Path.GetFullPath(path, Path.IsPathRooted(run.WorkingFolder) ? run.WorkingFolder : Environment.CurrentDirectory);
            string[] known = [.. given[field.Name].Select(word => field.Takes switch
            {
                CommandTakes.Model => choices.FirstOrDefault(c => c.Key == ModelShelf.KeyOf(Full(word)))?.Key ?? (HubWords.IsModel(word) ? word : ""),
                CommandTakes.Start => choices.FirstOrDefault(c => c.Key == ModelShelf.KeyOf(Full(word)) || c.Key == ModelShelf.KeyOf(Path.GetDirectoryName(Full(word)) ?? "/") + Random)?.Key ?? (HubWords.IsModel(word) ? word : ""),
                CommandTakes.Data => texts.All().FirstOrDefault(t => t.Reference == word)?.Key ?? (HubWords.IsData(word) ? word : ""),
                CommandTakes.Adapter => choices.FirstOrDefault(c => c.Key == ModelShelf.KeyOf(Full(word)))?.Key ?? "",
                CommandTakes.Plan => choices.FirstOrDefault(c => word.Contains(c.Key, StringComparison.Ordinal))?.Key ?? "",
                _ => HubWords.IsPath(word) ? "" : word,
            }).Where(w => w.Length > 0)];
            if (known.Length > 0)
            {
                values[field.Name] = known;
            }
        }

        return values;
    }

    private static string Named(ModelCard model) => $"{model.Name} ({model.Kind}, {model.Place})";

    private IReadOnlyList<string> Words(CommandDraft draft, string output)
    {
        CommandForm form = Form(draft.Command);
        foreach (string name in draft.Values.Keys)
        {
            EspalierException.Require(form.Fields.Any(f => f.Name == name), $"'{name}' is no word that the studio sets for {form.Name}.");
        }

        var words = new List<string> { form.Name };
        foreach (CommandField field in form.Fields)
        {
            string[] values = [.. draft.Values.GetValueOrDefault(field.Name, []).Select(v => v.Trim()).Where(v => v.Length > 0)];
            EspalierException.Require(values.Length <= (field.Many ? MostValues : 1), $"{field.Name} takes at most {(field.Many ? MostValues : 1)}.");
            if (field.Required && values.Length == 0)
            {
                throw new EspalierException($"'{field.Label}' is missing{(field.Hint.Length > 0 ? $": {char.ToLowerInvariant(field.Hint[0])}{field.Hint[1..].TrimEnd('.')}" : "")}.");
            }

            foreach (string value in values)
            {
                Refuse(field, value);
                if (field.Takes is CommandTakes.Switch)
                {
                    words.AddRange(value == "true" ? [field.Name] : []);
                    continue;
                }

                words.AddRange(field.Argument ? [] : [field.Name]);
                words.AddRange(field.Takes switch
                {
                    CommandTakes.Model => [ModelOf(value)],
                    CommandTakes.Start => StartOf(value),
                    CommandTakes.Data => [TextOf(value)],
                    CommandTakes.Adapter => [AdapterOf(value)],
                    CommandTakes.Plan => [PlanOf(value)],
                    _ => [value],
                });
            }
        }

        if (form.Out is { } option)
        {
            words.AddRange([option, form.OutFile is { } file ? Path.Combine(output, file) : output]);
        }

        return words;
    }

    // Words go to the tool one by one and never through a shell; these two could still be read as something else.
    private static void Refuse(CommandField field, string value)
    {
        EspalierException.Require(value.Length <= LongestValue && !value.Any(char.IsControl), $"The value of {field.Name} is too long, or holds signs that are no text.");
        EspalierException.Require(value[0] != '@' && (value[0] != '-' || double.TryParse(value, CultureInfo.InvariantCulture, out _)), $"The value of {field.Name} cannot begin with '{value[0]}'.");
        bool keyed = field.Takes is CommandTakes.Model or CommandTakes.Start or CommandTakes.Data or CommandTakes.Adapter or CommandTakes.Plan;
        EspalierException.Require(keyed || !HubWords.IsPath(value), $"{field.Name} takes no path here; files are given in a terminal.");
    }

    private string ModelOf(string word)
    {
        bool known = shelf.All().Any(m => m.Key == word);
        EspalierException.Require(known || HubWords.IsModel(word), "Choose a model of the list, or give an id on the hub as org/name.");
        return known ? shelf.FolderOf(word) : word;
    }

    private string[] StartOf(string word)
    {
        if (!word.EndsWith(Random, StringComparison.Ordinal))
        {
            return [ModelOf(word)];
        }

        string key = word[..^Random.Length], folder = shelf.FolderOf(key), config = Path.Combine(folder, Espalier.Models.ModelConfig.FileName);
        return shelf.Card(key).Vision ? [config] : [config, "--tokenizer", folder];
    }

    private string TextOf(string word)
    {
        TextCard? card = texts.All().FirstOrDefault(t => t.Key == word);
        EspalierException.Require(card is not null || HubWords.IsData(word), "Choose data of the list, or give some on the hub as org/name:config:split.");
        return card?.Reference ?? word;
    }

    private string AdapterOf(string key) => AdaptersAsync().GetAwaiter().GetResult().FirstOrDefault(a => a.Choice.Key == key).Folder
        ?? throw new EspalierException("There is no such adapter any more; adapt a model first.");

    // The plan of a run as a file of its own name: it is written once, and a comparison that is gone on with finds it again.
    private string PlanOf(string id)
    {
        Run run = PlansAsync().GetAwaiter().GetResult().FirstOrDefault(r => r.Id == id) ?? throw new EspalierException("There is no such plan any more; choose runs of the list.");
        string yaml = PlanFile.ToYaml(PlanFile.Parse(run.Plan, "the plan").With("name", Api.RunCard.NameOf(run)).Values);
        string folder = Directory.CreateDirectory(Path.Combine(options.Home, "studio", "plans")).FullName;
        string file = Path.Combine(folder, $"{run.Id}-{Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(yaml)))[..8]}.yaml");
        if (!File.Exists(file))
        {
            AtomicFile.WriteText(file, yaml);
        }

        return file;
    }

    private async Task<IReadOnlyList<Run>> PlansAsync()
    {
        RunPage page = await (await runs.StoreAsync().ConfigureAwait(false)).ListAsync(new RunFilter { Commands = ["prune"], Take = 60 }).ConfigureAwait(false);
        return [.. page.Runs.Where(r => r.Plan.Length > 0)];
    }

    private async Task<IReadOnlyList<(Choosable Choice, string Folder)>> AdaptersAsync()
    {
        RunPage page = await (await runs.StoreAsync().ConfigureAwait(false)).ListAsync(new RunFilter { Commands = ["adapt"], States = [RunState.Finished], Take = 60 }).ConfigureAwait(false);
        return [.. page.Runs.Where(r => r.Folder.Length > 0 && AdapterFile.IsAdapter(r.Folder)).Select(r => (new Choosable(ModelShelf.KeyOf(r.Folder), Api.RunCard.NameOf(r) + " · " + r.ShortId), r.Folder))];
    }
}
