using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Espalier.Catalogue;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;

// Peak memory and time of a training step of adapters, each in a process of its own, on a language model with random weights.
//   dotnet run -c Release --project bench/AdapterCost -- [CONFIG] [STEPS] [BATCH] [LENGTH] [REPEATS]
// CONFIG is a config.json; default bench/llama-100m.json, a larger sibling of the model that ships. REPEATS (default 3) interleaves the
// arms so many times; the table has the median of their medians and the largest peak.
string[] arms = ["full", "lora rank=8", "lora rank=16", "s2ft down_ratio=0.03", "s2ft down_ratio=0.03 output_ratio=0.03"];
if (args is ["worker", .. var rest])
{
    return Work(rest[0], rest[1], int.Parse(rest[2], CultureInfo.InvariantCulture), int.Parse(rest[3], CultureInfo.InvariantCulture), int.Parse(rest[4], CultureInfo.InvariantCulture));
}

string config = args.Length > 0 ? args[0] : Path.Combine("bench", "llama-100m.json");
int steps = Number(1, 6), batch = Number(2, 2), length = Number(3, 128), repeats = Number(4, 3);
if (!File.Exists(config))
{
    Console.Error.WriteLine($"There is no {config}; run it from the repository's root, or name a config.json.");
    return 2;
}

var results = arms.ToDictionary(a => a, _ => new List<Cost>());
for (int repeat = 0; repeat < repeats; repeat++)
{
    foreach (string arm in arms)
    {
        Cost cost = Start(arm, config, steps, batch, length);
        results[arm].Add(cost);
        Console.Error.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{arm}: {cost.Milliseconds:F0} ms, peak {cost.Peak / 1e6:F0} MB"));
    }
}

Cost[] measured = [.. arms.Select(a => new Cost(results[a].Select(c => c.Milliseconds).Order().ElementAt(repeats / 2), results[a].Max(c => c.Peak), results[a].Max(c => c.Loaded), results[a][0].Trained, results[a][0].State))];
Console.WriteLine("| arm | trained | optimiser state, MB | peak memory, MB | of full | ms a step | of full |");
Console.WriteLine("|---|---:|---:|---:|---:|---:|---:|");
foreach ((string arm, Cost cost) in arms.Zip(measured))
{
    Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
        $"| {arm} | {cost.Trained:N0} | {cost.State / 1e6:F1} | {cost.Peak / 1e6:F0} | {(double)cost.Peak / measured[0].Peak:F2} | {cost.Milliseconds:F0} | {cost.Milliseconds / measured[0].Milliseconds:F2} |"));
}

Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"\nThe model alone, loaded: {measured[0].Loaded / 1e6:F0} MB resident."));
return 0;

int Number(int at, int otherwise) => args.Length > at ? int.Parse(args[at], CultureInfo.InvariantCulture) : otherwise;

static Cost Start(string arm, string config, int steps, int batch, int length)
{
    var start = new ProcessStartInfo(Environment.ProcessPath!) { RedirectStandardOutput = true };
    string own = typeof(Cost).Assembly.Location;
    foreach (string word in (string[])[.. Path.GetFileNameWithoutExtension(start.FileName) == "dotnet" ? [own] : (string[])[], "worker", arm, config, $"{steps}", $"{batch}", $"{length}"])
    {
        start.ArgumentList.Add(word);
    }

    using Process process = Process.Start(start)!;
    string answer = process.StandardOutput.ReadToEnd();
    process.WaitForExit();
    return process.ExitCode == 0 ? JsonSerializer.Deserialize<Cost>(answer)! : throw new InvalidOperationException($"The arm {arm} failed: {answer}");
}

static int Work(string arm, string config, int steps, int batch, int length)
{
    NativeLibraries.EnsureLoaded();
    string[] words = arm.Split(' ');
    var options = words.Skip(1).Select(w => w.Split('=')).ToDictionary(w => w[0], w => (object?)w[1]);
    IAdaptation method = MethodCatalogue.Default.Create<IAdaptation>(words[0], options);
    using LanguageModel model = LanguageModel.Random(ModelConfig.Parse(File.ReadAllText(config), config), new Seed(0));
    long loaded = Memory("VmRSS");
    var random = new Random(0);
    int[] tokens = [.. Enumerable.Range(0, 4 * batch * length).Select(_ => random.Next(model.Config.VocabSize))];
    var clock = new Clock();
    // No weights to go back to: the copies of sound weights are the loop's, not the method's.
    using AdaptationResult result = new AdaptationTraining(new TrainingOptions { Steps = steps, LearningRate = 1e-4 }) { Batch = batch, Length = length, Hooks = [clock], KeepGoodEvery = 0 }.Run(method, model, tokens);
    Console.WriteLine(JsonSerializer.Serialize(new Cost(clock.Median, Memory("VmHWM"), loaded, result.TrainedParameters, result.OptimizerBytes)));
    return 0;
}

static long Memory(string field) =>
    long.Parse(File.ReadLines("/proc/self/status").First(l => l.StartsWith(field + ":", StringComparison.Ordinal)).Split(':', StringSplitOptions.TrimEntries)[1].Split(' ')[0], CultureInfo.InvariantCulture) * 1024;

/// <summary>What one arm cost.</summary>
/// <param name="Milliseconds">The median time of a step.</param>
/// <param name="Peak">The largest resident memory of the process, in bytes.</param>
/// <param name="Loaded">Resident memory with the model loaded, in bytes.</param>
/// <param name="Trained">Trained numbers.</param>
/// <param name="State">Bytes of the optimiser's state.</param>
internal sealed record Cost(double Milliseconds, long Peak, long Loaded, long Trained, long State);

/// <summary>The time from one step's end to the next.</summary>
internal sealed class Clock : ITrainingHook
{
    private readonly List<double> _times = [];
    private long _last;

    public string Name => "clock";

    public double Median => _times.Order().ElementAt(_times.Count / 2);

    public void AfterStep(TrainingStep step)
    {
        long now = Stopwatch.GetTimestamp();
        if (step.Index > 0)
        {
            _times.Add(Stopwatch.GetElapsedTime(_last, now).TotalMilliseconds);
        }

        _last = now;
    }
}
