using System.CommandLine;
using Espalier.Models;
using Espalier.Runtime;
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

    public SynthesizeCommand()
        : base(
            "synthesize",
            "Writes a checkpoint of random weights for a config.json, tensor by tensor: for measuring time and memory at any size.",
            "espalier synthesize --config bench/llama-1.1b.json --out ./synthetic")
    {
        foreach (Option option in new Option[] { _config, _out, _type, _seed })
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
        long parameters = await Task.Run(() => RandomCheckpoint.Write(config, output, type, new Seed(parsed.GetValue(_seed)), context.Progress, cancellation), cancellation).ConfigureAwait(false);
        context.Show(new { folder = output, parameters }, () => context.Output.WriteLine($"{Text.Count(parameters)} random parameters in {output}"));
        return ExitCode.Success;
    }
}
