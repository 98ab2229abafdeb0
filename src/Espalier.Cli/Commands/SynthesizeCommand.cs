using System.CommandLine;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;
using Text = Espalier.Runtime.Text;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier synthesize</c>: a checkpoint of random weights, for measuring time and memory.</summary>
internal sealed class SynthesizeCommand : EspalierCommand
{
    private readonly Option<string> _config = new("--config") { Description = "A config.json (or the folder that holds one).", Required = true };
    private readonly Option<string> _out = new("--out") { Description = "The output folder.", Required = true };
    private readonly Option<string> _type = new("--dtype") { Description = "bfloat16, float16 or float32.", DefaultValueFactory = _ => "bfloat16" };
    private readonly Option<long> _seed = new("--seed") { Description = "The seed of the weights." };

    private readonly Option<double?> _sparsity = new("--sparsity") { Description = "The share of the blocks' weights that are zero, the smallest of each row.", HelpName = "0…1" };
    private readonly Option<string?> _pattern = new("--pattern") { Description = "N:M, for example 2:4: the zeros lie in this pattern.", HelpName = "N:M" };

    public SynthesizeCommand()
        : base(
            "synthesize",
            "Writes a checkpoint of random weights for a config.json, tensor by tensor: for measuring time and memory at any size.",
            "espalier synthesize --config bench/llama-1.1b.json --out ./synthetic",
            "espalier synthesize --config bench/llama-1.1b.json --sparsity 0.5 --out ./synthetic-50")
    {
        foreach (Option option in new Option[] { _config, _out, _type, _seed, _sparsity, _pattern })
        {
            Add(option);
        }
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string path = parsed.GetRequiredValue(_config), output = parsed.GetRequiredValue(_out);
        EspalierException.Require(File.Exists(path) || Directory.Exists(path), $"There is no {path}; name a config.json or its folder.");
        ModelConfig config = Directory.Exists(path) ? ModelConfig.Load(path) : ModelConfig.Parse(await File.ReadAllTextAsync(path, cancellation).ConfigureAwait(false), path);
        ScalarType type = parsed.GetRequiredValue(_type) switch
        {
            "bfloat16" => ScalarType.BFloat16,
            "float16" => ScalarType.Float16,
            "float32" => ScalarType.Float32,
            var other => throw new EspalierException($"'{other}' is no element type for weights; use bfloat16, float16 or float32."),
        };
        string? word = parsed.GetValue(_pattern);
        double? sparsity = parsed.GetValue(_sparsity);
        Pattern? pattern = word is null && sparsity is null ? null : Pattern.Parse(word ?? "unstructured", sparsity);
        EspalierException.Require(pattern is null or Pattern.UnstructuredPattern or Pattern.SemiStructuredPattern, $"'{word}' is no pattern of zeros; use N:M, or --sparsity alone.");
        Func<string, Tensor, Tensor>? prune = pattern is null ? null : (name, weight) =>
            MaskSelection.Apply(weight, MaskSelection.Keep(weight.abs(), pattern, Scope.Row, pattern.Sparsity, name));
        long parameters = await Task.Run(() => RandomCheckpoint.Write(config, output, type, new Seed(parsed.GetValue(_seed)), context.Progress, cancellation, prune), cancellation).ConfigureAwait(false);
        context.Show(new { folder = output, parameters }, () => context.Output.WriteLine($"{Text.Count(parameters)} random parameters in {output}"));
        return ExitCode.Success;
    }
}
