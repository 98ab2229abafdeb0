using Espalier.Reporting;
using Espalier.Runtime;

namespace Espalier.MemorySlope;

/// <summary>The trails as a page.</summary>
internal static class SlopePage
{
    /// <summary>Writes <c>report.html</c> and <c>report.json</c>; gives the page's path.</summary>
    public static string Save(string folder, IReadOnlyList<Trail> trails)
    {
        Directory.CreateDirectory(folder);
        IReadOnlyDictionary<string, string> machine = Machine.Describe();
        ReportJson.Save(Path.Combine(folder, "report.json"), new { trails, machine });
        var page = new ReportPage("Memory over long work", trails.All(t => t.IsFlat) ? "Nothing is left behind." : "Something is left behind.")
        {
            Kicker = "Espalier memory slope",
            Footer = string.Join(" · ", machine.Select(m => $"{m.Key} {m.Value}")),
        };
        foreach (Trail trail in trails)
        {
            page.Section(trail.Name, trail.ToString(),
                Chart(trail, "Live tensors", "tensors", s => s.Tensors),
                Chart(trail, "Memory in MiB", "MiB", s => s.Resident / 1048576.0, s => s.Managed / 1048576.0));
        }

        string path = Path.Combine(folder, "report.html");
        page.Save(path);
        return path;
    }

    private static LineChart Chart(Trail trail, string title, string label, params Func<Sample, double>[] of)
    {
        string[] names = of.Length == 1 ? [label] : ["resident", "managed"];
        return new LineChart
        {
            Title = title,
            XLabel = trail.Unit,
            YLabel = label,
            Smoothing = 0,
            Lines = [.. of.Select((value, i) => new Series(names[i], [.. trail.Samples.Select(s => ((double)s.At, value(s)))], (Tone)i))],
        };
    }
}
