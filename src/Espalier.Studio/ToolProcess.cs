using System.Diagnostics;
using Espalier.Runtime;

namespace Espalier.Studio;

/// <summary>Starts the <c>espalier</c> tool as a process of its own: what runs there survives nothing of the studio, and cannot harm it.</summary>
internal sealed class ToolProcess(StudioOptions options)
{
    /// <summary>What a process is started with.</summary>
    /// <param name="words">The words after <c>espalier</c>; given as they are, never through a shell.</param>
    /// <param name="folder">Its working folder.</param>
    public ProcessStartInfo Start(IEnumerable<string> words, string? folder = null)
    {
        IReadOnlyList<string> tool = options.Tool ?? OwnTool.Words;
        var start = new ProcessStartInfo(tool[0]) { RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true, UseShellExecute = false, WorkingDirectory = folder ?? "" };
        foreach (string word in tool.Skip(1).Concat(words))
        {
            start.ArgumentList.Add(word);
        }

        // What only the studio needs to know is not handed on.
        foreach (string secret in start.Environment.Keys.Where(k => k.StartsWith("ESPALIER_SMTP", StringComparison.Ordinal) || k.StartsWith("ESPALIER_STUDIO", StringComparison.Ordinal)).ToArray())
        {
            start.Environment.Remove(secret);
        }

        return start;
    }
}
