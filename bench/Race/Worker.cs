using System.Globalization;
using System.Text.Json;
using Espalier.Checkpoints;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

namespace Espalier.Race;

/// <summary>Holds one model, or none, and answers lines: "decode THREADS NEW PROMPT" and "prompt THREADS TOKENS" with tokens per second,
/// "bandwidth THREADS" with gigabytes per second, "perplexity WINDOWS.json" with that of windows of token ids.</summary>
internal sealed class Worker : IDisposable
{
    private readonly LanguageModel? model;
    private Bandwidth? bandwidth;

    public Worker(string? folder)
    {
        NativeLibraries.EnsureLoaded();
        if (folder is null)
        {
            return;
        }

        ITensorSource source = PackedSource.OpenAny(folder);
        model = LanguageModel.Load(ModelConfig.Load(folder), source, compact: true);
        (source as IDisposable)?.Dispose();
    }

    public void Serve()
    {
        Console.WriteLine("ready");
        while (Console.ReadLine() is { } line)
        {
            string[] words = line.Split(' ');
            if (words is ["perplexity", var windows])
            {
                Console.WriteLine(Score(windows).ToString("R", CultureInfo.InvariantCulture));
                continue;
            }

            int[] numbers = [.. words.Skip(1).Select(w => int.Parse(w, CultureInfo.InvariantCulture))];
            set_num_threads(numbers[0]);
            double answer = words[0] switch
            {
                "decode" => Measure(numbers[1], numbers[2]).TokensPerSecond,
                "prompt" => Measure(1, numbers[1]).PromptTokensPerSecond,
                "bandwidth" => (bandwidth ??= new Bandwidth()).Measure(numbers[0]),
                _ => throw new EspalierException($"'{words[0]}' is no command of the race."),
            };
            Console.WriteLine(answer.ToString("R", CultureInfo.InvariantCulture));
        }
    }

    public void Dispose()
    {
        model?.Dispose();
        bandwidth?.Dispose();
    }

    private double Score(string file)
    {
        using var scope = NewDisposeScope();
        long[][] windows = JsonSerializer.Deserialize<long[][]>(File.ReadAllText(file))!;
        return Perplexity.Evaluate(model!, tensor(windows.SelectMany(w => w).ToArray()).view(windows.Length, -1)).Value;
    }

    // One run; the driver repeats, in turns with the others, and leaves the first out.
    private DecodingSpeed Measure(int made, int prompt) =>
        DecodingSpeed.Measure([model!], new DecodingSpeed.Options { NewTokens = made, PromptTokens = prompt, Repeats = 1, WarmUps = 0 })[0];
}
