using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>The known tensor that a mistyped name was probably meant to be.</summary>
internal static class Nearest
{
    /// <summary>" (did you mean 'x'?)", or nothing when no name is close.</summary>
    /// <param name="name">What was asked for.</param>
    /// <param name="known">What there is.</param>
    public static string To(string name, IReadOnlyList<string> known)
    {
        // A prefix is the usual difference: "model.layers.0..." against "layers.0...".
        string? near = known.FirstOrDefault(candidate =>
                candidate.EndsWith('.' + name, StringComparison.Ordinal) || name.EndsWith('.' + candidate, StringComparison.Ordinal))
            ?? NearestWord.To(name, known);
        return near is null ? string.Empty : $" (did you mean '{near}'?)";
    }
}
