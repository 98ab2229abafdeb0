using System.Globalization;

namespace Espalier.Training;

/// <summary>
/// The states of a method's trainings, one folder each in the order in which they begin. A method that is run again with the same words
/// trains in the same order: trainings that had ended are read back, the one that was stopped goes on, and the others begin.
/// </summary>
/// <param name="folder">Where the folders are kept.</param>
public sealed class TrainingStates(string folder)
{
    private const string Prefix = "training-";

    private int _begun;

    /// <summary>The folder of the training that begins now.</summary>
    public string Next() => Path.Combine(folder, string.Create(CultureInfo.InvariantCulture, $"{Prefix}{++_begun:000}"));

    /// <summary>Whether a folder holds the state of a training, or those of a method's trainings.</summary>
    /// <param name="folder">The folder, which need not exist.</param>
    public static bool Any(string folder) =>
        TrainingLoop.HasState(folder) || (Directory.Exists(folder) && Directory.EnumerateDirectories(folder, $"{Prefix}*").Any(TrainingLoop.HasState));
}
