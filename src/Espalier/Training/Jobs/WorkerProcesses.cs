using System.Diagnostics;
using Espalier.Runtime;

namespace Espalier.Training.Jobs;

/// <summary>The workers that this process has started: never more than asked for, and no more than fit into the memory limit.</summary>
internal sealed class WorkerProcesses(WorkerOptions options) : IDisposable
{
    private static readonly TimeSpan TimeToStop = TimeSpan.FromSeconds(20);

    private readonly List<Worker> _running = [];
    private int _lost;

    /// <summary>The last words of the worker that ended last.</summary>
    public string LastWords { get; private set; } = "";

    /// <summary>Process numbers of those that run.</summary>
    public IReadOnlyList<int> Ids => [.. _running.Select(w => w.Process.Id)];

    /// <summary>A training was finished: whatever ended workers before does not end all of them.</summary>
    public void Succeeded() => _lost = 0;

    /// <summary>Starts workers where there is work and room for them.</summary>
    /// <param name="open">Trainings that are not done.</param>
    /// <param name="peak">The highest memory of a worker that is known, in bytes; 0 when none is.</param>
    /// <param name="settled">Whether a worker has trained long enough that <paramref name="peak"/> stands for the others.</param>
    /// <exception cref="EspalierException">When one takes more than the limit, or they end whatever is tried.</exception>
    public void Tend(int open, long peak, bool settled)
    {
        foreach (Worker ended in _running.Where(w => w.Process.HasExited).ToArray())
        {
            _running.Remove(ended);
            ended.Process.WaitForExit(); // and its last words have been read
            LastWords = ended.LastWords;
            options.Progress.Warn($"A worker ended before its time (exit code {ended.Process.ExitCode}{(LastWords.Length == 0 ? "" : $": {LastWords}")}); another goes on with its training.");
            ended.Process.Dispose();
            EspalierException.Require(++_lost < JobFolder.MostClaims + options.Workers, $"Workers end before they have trained anything, last with: {(LastWords.Length == 0 ? "no word" : LastWords.TrimEnd('.'))}. Train without --workers to see more.");
        }

        EspalierException.Require(options.MemoryLimit is not { } limit || peak <= limit,
            $"One worker takes {Text.Bytes(peak)}, more than the limit of {Text.Bytes(options.MemoryLimit ?? 0)} for all; raise --memory-limit, or make the batch smaller.");
        while (_running.Count < Math.Min(options.Workers, open) && HasRoom(peak, settled))
        {
            _running.Add(Worker.Start(options));
        }
    }

    /// <summary>Lets every worker save its training and end; what has not ended in time is killed.</summary>
    public void Dispose()
    {
        foreach (Worker worker in _running)
        {
            worker.Process.StandardInput.Close();
        }

        long deadline = Environment.TickCount64 + (long)TimeToStop.TotalMilliseconds;
        foreach (Worker worker in _running)
        {
            if (!worker.Process.WaitForExit((int)Math.Max(0, deadline - Environment.TickCount64)))
            {
                worker.Process.Kill(entireProcessTree: true);
                worker.Process.WaitForExit();
            }

            worker.Process.Dispose();
        }

        _running.Clear();
    }

    private bool HasRoom(long peak, bool settled) =>
        options.MemoryLimit is not { } limit || _running.Count == 0 || (settled && (_running.Count + 1) * peak <= limit);

    private sealed class Worker
    {
        private Worker(Process process) => Process = process;

        public Process Process { get; }

        public string LastWords { get; private set; } = "";

        public static Worker Start(WorkerOptions options)
        {
            var start = new ProcessStartInfo(options.Tool[0], [.. options.Tool.Skip(1), "work", options.Folder, "--child", "--quiet", "--no-color", "--device", options.Device])
            {
                RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true, UseShellExecute = false,
            };
            start.Environment["ESPALIER_RUNS"] = "none";
            try
            {
                var worker = new Worker(Process.Start(start)!);
                worker.Process.ErrorDataReceived += (_, line) => worker.LastWords = string.IsNullOrWhiteSpace(line.Data) ? worker.LastWords : line.Data;
                worker.Process.OutputDataReceived += (_, _) => { };
                worker.Process.BeginErrorReadLine();
                worker.Process.BeginOutputReadLine();
                return worker;
            }
            catch (System.ComponentModel.Win32Exception fault)
            {
                throw new EspalierException($"A worker could not be started with {string.Join(' ', options.Tool)} ({fault.Message.TrimEnd('.')}); train without --workers.", fault);
            }
        }
    }
}
