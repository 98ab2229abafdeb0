using System.Runtime.InteropServices;
using Espalier.Cli;

using var stop = new CancellationTokenSource();

// The first Ctrl-C (or SIGTERM) asks the work to end where nothing is lost; a second one is left to the system, which kills.
void Stop(PosixSignalContext signal)
{
    if (!stop.IsCancellationRequested)
    {
        signal.Cancel = true;
        Console.Error.WriteLine("stopping… (once more to stop at once)");
        stop.Cancel();
    }
}

using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop);
using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop);
return await EspalierCommandLine.RunAsync(args, Console.Out, Console.Error, stop.Token);
