using System.Globalization;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

// Our side of bench/race.py: holds one model and answers each line "NEW PROMPT" on standard input with the tokens per second
// of decoding NEW tokens after a prompt of PROMPT tokens, and of reading that prompt.
NativeLibraries.EnsureLoaded();
set_num_threads(int.Parse(args[1], CultureInfo.InvariantCulture));
ModelConfig config = ModelConfig.Load(args[0]);
Espalier.Checkpoints.ITensorSource source = PackedSource.OpenAny(args[0]);
using LanguageModel model = LanguageModel.Load(config, source, compact: true);
(source as IDisposable)?.Dispose();
Console.WriteLine("ready");
while (Console.ReadLine() is { } line)
{
    int[] words = [.. line.Split(' ').Select(w => int.Parse(w, CultureInfo.InvariantCulture))];
    DecodingSpeed speed = DecodingSpeed.Measure([model], new DecodingSpeed.Options { NewTokens = words[0], PromptTokens = words[1], Repeats = 3 })[0];
    Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{speed.TokensPerSecond:R} {speed.PromptTokensPerSecond:R}"));
}
