using System.CommandLine;
using Espalier.Checkpoints;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier download</c>: brings a model or a data set into the cache.</summary>
internal sealed class DownloadCommand : EspalierCommand
{
    private readonly Argument<string> _id = new("ID") { Description = "The hub id, with @REVISION for another one than main." };
    private readonly Option<bool> _dataset = new("--dataset") { Description = "The id is a data set's." };

    public DownloadCommand()
        : base("download", "Brings a model (or data set) from the hub into the cache and prints its folder; continues where it was cut off.",
            "espalier download meta-llama/Llama-3.2-1B",
            "espalier download Salesforce/wikitext --dataset")
    {
        Add(_id);
        Add(_dataset);
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string id = parsed.GetRequiredValue(_id);
        string folder = parsed.GetValue(_dataset)
            ? await Hub.ResolveDatasetAsync(id, context.Progress, cancellation: cancellation).ConfigureAwait(false)
            : await Hub.ResolveAsync(id, context.Progress, cancellation).ConfigureAwait(false);
        context.Show(new { id, folder }, () => context.Output.WriteLine(folder));
        return ExitCode.Success;
    }
}
