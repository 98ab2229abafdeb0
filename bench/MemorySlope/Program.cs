using System.Globalization;
using Espalier.MemorySlope;

// A day's work in miniature, and whether it leaves anything behind: MemorySlope [STEPS [CYCLES [FOLDER]]].
// 10,000 steps of retraining, then 1,000 times pruning and evaluating, on a tiny model. Fits lines through live tensors and resident memory
// after the first fifth; fails where one of them rises. FOLDER gets report.json and report.html (default: a new temporary folder).
if (args.Length > 3 || args.Take(2).Any(word => !int.TryParse(word, CultureInfo.InvariantCulture, out int number) || number < 100))
{
    Console.Error.WriteLine("Usage: MemorySlope [STEPS [CYCLES [FOLDER]]], with at least 100 of each.");
    return 2;
}

int steps = args.Length > 0 ? int.Parse(args[0], CultureInfo.InvariantCulture) : 10_000;
int cycles = args.Length > 1 ? int.Parse(args[1], CultureInfo.InvariantCulture) : 1_000;
string folder = args.Length > 2 ? args[2] : Directory.CreateTempSubdirectory("espalier-memory-").FullName;
using var work = new TinyWork();
Trail[] trails = [await work.RetrainAsync(steps), await work.PruneAndEvaluateAsync(cycles)];
foreach (Trail trail in trails)
{
    Console.WriteLine(trail);
}

Console.WriteLine(SlopePage.Save(folder, trails));
return trails.All(t => t.IsFlat) ? 0 : 1;
