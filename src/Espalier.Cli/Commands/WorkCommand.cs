using System.CommandLine;
using Espalier.Runtime;
using Espalier.Training.Jobs;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier work</c>: does trainings that a run with <c>--workers</c> has laid out in a folder.</summary>
internal sealed class WorkCommand : EspalierCommand
{
    private readonly Argument<string> _folder = new("FOLDER") { Description = "The work folder of a run with --workers." };
    private readonly Option<double> _wait = new("--wait") { Description = "Waits so long for new trainings, or for the folder to be made, before it ends.", HelpName = "seconds", DefaultValueFactory = _ => 0 };

    // A worker that a run has started waits for work as long as the run holds its standard input open.
    private readonly Option<bool> _child = new("--child") { Hidden = true };

    public WorkCommand()
        : base("work", "Does trainings that `espalier train --workers N --work-folder FOLDER` has laid out, beside other workers on this and other machines, until none is left.",
            "espalier work /shared/soup",
            "espalier work /shared/soup --wait 600 --device cuda:1",
            "espalier work /shared/soup --json")
    {
        Add(_folder);
        Add(_wait);
        Add(_child);
    }

    /// <inheritdoc/>
    internal override void Check(ParseResult parsed) =>
        EspalierException.Require(parsed.GetValue(_wait) is >= 0 and <= 1e9, FormattableString.Invariant($"--wait {parsed.GetValue(_wait)} is not possible; give seconds from 0 on."));

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        bool child = parsed.GetValue(_child);
        if (child)
        {
            _ = Task.Run(() => StopAtEnd(Console.OpenStandardInput(), stop), CancellationToken.None);
        }

        NativeLibraries.EnsureLoaded();
        var worker = new TrainingWorker(Path.GetFullPath(parsed.GetRequiredValue(_folder)))
        {
            Device = context.Device,
            Threads = context.Settings.Threads,
            Wait = TimeSpan.FromSeconds(child ? 1e9 : parsed.GetValue(_wait)),
            Progress = context.Progress,
        };
        WorkerReport report;
        try
        {
            report = await Task.Run(() => worker.Run(stop.Token), CancellationToken.None).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            return ExitCode.Interrupted;
        }

        context.Show(report, () =>
        {
            context.Output.WriteLine(report.Trained == 1 ? "1 training done" : $"{report.Trained} trainings done");
            foreach (string failure in report.Failures)
            {
                context.Output.WriteLine($"failed: {failure}");
            }
        });
        return report.Failures.Count == 0 ? ExitCode.Success : ExitCode.UserError;
    }

    private static void StopAtEnd(Stream input, CancellationTokenSource stop)
    {
        try
        {
            while (input.ReadByte() >= 0)
            {
            }

            stop.Cancel();
        }
        catch (Exception fault) when (fault is IOException or ObjectDisposedException)
        {
            // The work has ended before.
        }
    }
}
