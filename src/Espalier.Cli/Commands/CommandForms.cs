using System.CommandLine;
using System.CommandLine.Completions;
using System.CommandLine.Parsing;
using System.Globalization;
using Espalier.Pruning;
using Espalier.Recipes;
using Espalier.Runs;
using Espalier.Runtime;
using Espalier.Studio.Runs;

namespace Espalier.Cli.Commands;

/// <summary>The commands as forms: made from the options that the command line itself is read with, and checked by the commands themselves.</summary>
internal sealed partial class CommandForms : IToolCommands
{
    // What a person calls what the command does. Pruning has a form of its own, in the words of plans.
    private static readonly Dictionary<string, string> Titles = new(StringComparer.Ordinal)
    {
        ["quickstart"] = "Quickstart",
        ["train"] = "Train",
        ["adapt"] = "Adapt",
        ["merge-adapter"] = "Merge an adapter",
        ["eval"] = "Evaluate",
        ["compare"] = "Compare plans",
        ["search"] = "Search a size",
        ["speed"] = "Measure speed",
        ["reproduce"] = "Reproduce a paper",
        ["complexity"] = "Merge channels",
    };

    // What only a terminal has a use for, or what the studio says itself.
    private static readonly HashSet<string> Own = ["--title", "--tag", "--resume", "--fresh", "--dry-run", "--markdown", "--task-data", "--stop-after", "--tokenizer", "--help", "--version"];

    private static readonly HashSet<string> Out = ["--out", "--output"];

    private static readonly HashSet<string> Rare =
    [
        "--warmup", "--state-bits", "--state-bits-from", "--weight-decay", "--beta1", "--beta2", "--momentum", "--nesterov", "--fisher-gradients", "--damping", "--clip", "--accumulate", "--save-every",
        "--augment", "--dtype", "--sparse-training", "--eval-windows", "--few-shot", "--limit", "--context", "--max-difference", "--force", "--fill-zeros", "--compact", "--keep", "--memory", "--samples", "--length",
        "--train-data", "--train-length", "--teacher", "--tolerance", "--kv-heads", "--criterion", "--curve", "--share", "--calibration", "--model",
    ];

    // What a word stands for where its type does not say it: by command and name, else by name.
    private static readonly Dictionary<string, CommandTakes> Meaning = new(StringComparer.Ordinal)
    {
        ["MODEL"] = CommandTakes.Model,
        ["model"] = CommandTakes.Model,
        ["--model"] = CommandTakes.Model,
        ["--teacher"] = CommandTakes.Model,
        ["--config"] = CommandTakes.Start,
        ["--data"] = CommandTakes.Data,
        ["--eval-data"] = CommandTakes.Data,
        ["--calibration"] = CommandTakes.Data,
        ["--train-data"] = CommandTakes.Data,
        ["--evaluation"] = CommandTakes.Data,
        ["--adapter"] = CommandTakes.Adapter,
        ["plans"] = CommandTakes.Plan,
    };

    // Options that name a system of the catalogue, and the option that sets what it takes.
    private static readonly Dictionary<(string Command, string Option), (string Part, string SetBy)> Parts = new()
    {
        [("train", "--sparse-training")] = ("sparse-training", "--set"),
        [("train", "--method")] = ("vision", "--set"),
        [("train", "--optimizer")] = ("optimizer", "--optimizer-set"),
        [("adapt", "--method")] = ("adaptation", "--set"),
        [("adapt", "--optimizer")] = ("optimizer", "--optimizer-set"),
    };

    /// <inheritdoc/>
    public IReadOnlyList<CommandForm> Forms { get; } = [.. Titles.Select(t => Form(CommandList.All().Single(c => c.Name == t.Key), t.Value))];

    /// <inheritdoc/>
    public ToolWords Read(IReadOnlyList<string> words)
    {
        ParseResult parsed = EspalierCommandLine.BuildRoot().Parse(words, new ParserConfiguration { ResponseFileTokenReplacer = null });
        string? error = parsed.Errors.Count > 0 ? parsed.Errors[0].Message : parsed.CommandResult.Command is EspalierCommand ? null : "These words name no command.";
        if (error is null)
        {
            try
            {
                ((EspalierCommand)parsed.CommandResult.Command).Check(parsed);
            }
            catch (EspalierException fault)
            {
                error = fault.Message;
            }
        }

        var given = new Dictionary<string, IReadOnlyList<string>>(StringComparer.Ordinal);
        foreach (SymbolResult result in parsed.CommandResult.Children)
        {
            (string? name, IReadOnlyList<Token> tokens) = result switch
            {
                OptionResult { Implicit: false } option => (option.Option.Name, option.Tokens),
                ArgumentResult { Tokens.Count: > 0 } argument => (argument.Argument.Name, argument.Tokens),
                _ => ((string?)null, []),
            };
            if (name is not null)
            {
                given[name] = tokens.Count == 0 ? ["true"] : [.. tokens.Select(t => t.Value)];
            }
        }

        string? field = error is null ? null : given.Keys.Concat(parsed.CommandResult.Command.Options.Select(o => o.Name)).OrderByDescending(n => n.Length).FirstOrDefault(n => error.Contains(n, StringComparison.Ordinal));
        return new ToolWords(error, field, WordsOf.Model(parsed), PlanFile.ToYaml(WordsOf.Options(parsed)), WordsOf.Seed(parsed), given);
    }

    /// <inheritdoc/>
    public IReadOnlyList<string> ToGoOn(Run run) => ResumeWords.ToGoOn(run);

    private static CommandForm Form(EspalierCommand command, string title)
    {
        CommandField[] fields =
        [
            .. command.Arguments.Select(a => Field(command.Name, a.Name, a.Description, a.ValueType, a.HasDefaultValue ? a.GetDefaultValue() : null, a.GetCompletions(CompletionContext.Empty), required: a.Arity.MinimumNumberOfValues > 0 || a.Name == "MODEL", a.Arity.MaximumNumberOfValues > 1, argument: true)),
            .. command.Options.Where(o => !o.Hidden && !Own.Contains(o.Name) && !Out.Contains(o.Name))
                .Select(o => Field(command.Name, o.Name, o.Description, o.ValueType, o.HasDefaultValue ? o.GetDefaultValue() : null, o.GetCompletions(CompletionContext.Empty), o.Required, o.ValueType.IsArray, argument: false)),
        ];
        string? output = command.Options.FirstOrDefault(o => Out.Contains(o.Name))?.Name;
        return new CommandForm(command.Name, title, command.Description ?? "", fields, output, command.Name == "eval" ? "result.json" : null);
    }

    // What help says of files and of other commands is of no use where one chooses from a list.
    private static string Short(string name, string hint, CommandTakes takes, bool system) => takes switch
    {
        CommandTakes.Plan => "Two plans or more, of earlier pruning runs.",
        CommandTakes.Start => "A model to go on from, or its shape with random weights.",
        CommandTakes.Adapter => "A saved adapter; of several the changes add up.",
        CommandTakes.Model or CommandTakes.Data => hint.Split([':', '('])[0].TrimEnd(' ', '.', ';') + ".",
        _ when system => name == "--method" && hint.StartsWith("A name", StringComparison.Ordinal) ? "" : hint.Split(": a")[0].TrimEnd('.') + ".",
        _ => Terminal().Replace(hint, ""),
    };

    [System.Text.RegularExpressions.GeneratedRegex(@" ?\([^()]*`[^()]*\)|, or a YAML file with [a-z ]+|; \""list\"" prints those there are| \(a folder or hub id\)")]
    private static partial System.Text.RegularExpressions.Regex Terminal();

    private static CommandField Field(string command, string name, string? hint, Type type, object? fallback, IEnumerable<CompletionItem> completions, bool required, bool many, bool argument)
    {
        type = Nullable.GetUnderlyingType(type) ?? type;
        (string Part, string SetBy)? part = Parts.TryGetValue((command, name), out (string, string) found) ? found : null;
        bool system = command == "reproduce" && argument;
        string[] choices = system ? [.. Reproduction.All.Keys.Order(StringComparer.Ordinal)]
            : part is { } named ? [.. (named.Part == "optimizer" ? ["adamw", "sgd", "mfac"] : Array.Empty<string>()), .. PlanWords.Systems(named.Part)!.Select(e => e.Slug).Where(s => s != "mfac" || named.Part != "optimizer").Order(StringComparer.Ordinal)]
            : type.IsEnum ? [.. Enum.GetNames(type).Select(n => n.ToLowerInvariant())]
            : [.. completions.Select(c => c.Label)];
        CommandTakes takes = system ? CommandTakes.Choice
            : Meaning.TryGetValue(name, out CommandTakes meant) ? meant
            : type == typeof(bool) ? CommandTakes.Switch
            : choices.Length > 0 ? CommandTakes.Choice
            : type == typeof(int) || type == typeof(long) || type == typeof(double) ? CommandTakes.Number
            : CommandTakes.Words;
        string? given = fallback switch
        {
            null or Array or false => null,
            string { Length: 0 } => null,
            Enum word => word.ToString().ToLowerInvariant(),
            IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
            _ => fallback.ToString(),
        };
        return new CommandField(name, takes, given, takes is CommandTakes.Switch ? [] : choices, Short(name, hint ?? "", takes, part is not null), required, many, argument, !required && (Rare.Contains(name) || (command, name) is ("train", "--method")) && (command, name) is not ("search", "--calibration"), part?.Part, part?.SetBy);
    }
}
