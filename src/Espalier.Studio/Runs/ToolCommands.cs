using Espalier.Runs;

namespace Espalier.Studio.Runs;

/// <summary>What a field of a command takes.</summary>
public enum CommandTakes
{
    /// <summary>Words; a path is none of them.</summary>
    Words,

    /// <summary>A number.</summary>
    Number,

    /// <summary>Yes or no.</summary>
    Switch,

    /// <summary>One of some words.</summary>
    Choice,

    /// <summary>A model of this machine or of the hub.</summary>
    Model,

    /// <summary>A model to go on from, or only its architecture, from random weights.</summary>
    Start,

    /// <summary>A text or images.</summary>
    Data,

    /// <summary>An adapter that a run has made.</summary>
    Adapter,

    /// <summary>The plan of an earlier pruning run.</summary>
    Plan,
}

/// <summary>One option or argument of a command, as its help describes it.</summary>
/// <param name="Name">As the command line spells it (<c>--steps</c>, or <c>MODEL</c> for an argument).</param>
/// <param name="Takes">What it takes.</param>
/// <param name="Default">What holds where nothing is given; null for nothing.</param>
/// <param name="Choices">The words that are possible (<see cref="CommandTakes.Choice"/>), or suggestions.</param>
/// <param name="Hint">Its help text.</param>
/// <param name="Required">Whether it must be given.</param>
/// <param name="Many">Whether it may be given several times.</param>
/// <param name="Argument">Whether it stands by its place, without its name.</param>
/// <param name="Rare">Whether most people leave it as it is.</param>
/// <param name="Part">The part of the catalogue whose systems it names ("adaptation"); null for none.</param>
/// <param name="SetBy">The option that gives options of that system as NAME=VALUE; null for none.</param>
public sealed record CommandField(
    string Name, CommandTakes Takes, string? Default, IReadOnlyList<string> Choices, string Hint, bool Required, bool Many, bool Argument, bool Rare, string? Part = null, string? SetBy = null)
{
    /// <summary>What a form calls it.</summary>
    public string Label => Name.TrimStart('-').ToLowerInvariant() switch
    {
        "config" => "Start from",
        "lr" => "Learning rate",
        "eval-data" or "evaluation" => "Measure on",
        "eval-windows" => "Windows to measure",
        "train-data" => "Retrain on",
        "calibration" => "Calibrate on",
        "dtype" => "Stored as",
        "few-shot" => "Solved examples",
        "kv-heads" => "Key-value heads",
        "optimizer" => "Optimiser",
        "prompt" => "Prompt tokens",
        string plain => char.ToUpperInvariant(plain[0]) + plain[1..].Replace('-', ' '),
    };
}

/// <summary>A command that can be started from a form.</summary>
/// <param name="Name">Its word.</param>
/// <param name="Title">What a person calls what it does ("Train").</param>
/// <param name="Summary">What it does, in a sentence.</param>
/// <param name="Fields">What it takes; where it writes is the studio's own business and no field.</param>
/// <param name="Out">The option that names where it writes; null where it writes nothing.</param>
/// <param name="OutFile">The name of the file that it writes there; null for a folder.</param>
public sealed record CommandForm(string Name, string Title, string Summary, IReadOnlyList<CommandField> Fields, string? Out = null, string? OutFile = null);

/// <summary>What words of the command line say.</summary>
/// <param name="Error">What is wrong with them, in a sentence; null for nothing.</param>
/// <param name="Field">The option that is wrong, where that is known.</param>
/// <param name="Model">The model or system that they name, or empty.</param>
/// <param name="Plan">The options as YAML.</param>
/// <param name="Seed">The seed; null where there is none, or several.</param>
/// <param name="Given">What was given for each field.</param>
public sealed record ToolWords(string? Error, string? Field, string Model, string Plan, long? Seed, IReadOnlyDictionary<string, IReadOnlyList<string>> Given);

/// <summary>The command line as the studio needs it: its commands with their options, and its own checks. The tool implements it, so that forms and terminal never differ.</summary>
public interface IToolCommands
{
    /// <summary>The commands that can be started from a form.</summary>
    IReadOnlyList<CommandForm> Forms { get; }

    /// <summary>Reads and checks words without doing any work.</summary>
    /// <param name="words">The words after <c>espalier</c>.</param>
    ToolWords Read(IReadOnlyList<string> words);

    /// <summary>The words that go on with a run.</summary>
    /// <exception cref="Espalier.Runtime.EspalierException">When the run has no command line.</exception>
    IReadOnlyList<string> ToGoOn(Run run);
}
