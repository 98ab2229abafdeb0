using System.Diagnostics;
using System.Text.Json;
using Espalier.Runs;

namespace Espalier.Studio.Runs;

/// <summary>Reads the JSON lines of a working process and writes them into the store, twice a second.</summary>
internal sealed class RunRecording(IRunStore store, string id, Process process) : IDisposable
{
    private static readonly TimeSpan Interval = TimeSpan.FromMilliseconds(500);

    private readonly Lock _lock = new();
    private readonly Dictionary<int, (string Name, long Total)> _tasks = [];
    private List<MetricPoint> _metrics = [];
    private List<LogLine> _lines = [];
    private double? _progress;
    private string _doing = "", _outcome = "", _error = "";

    /// <summary>Follows the process to its end.</summary>
    /// <returns>How it ended.</returns>
    public async Task<RunEnd> FollowAsync()
    {
        process.StandardInput.Close();
        using var ended = new CancellationTokenSource();
        Task writing = WriteAsync(ended.Token);
        Task errors = ReadAsync(process.StandardError, line => Say("error", line));
        await ReadAsync(process.StandardOutput, Read).ConfigureAwait(false);
        await errors.ConfigureAwait(false);
        await process.WaitForExitAsync().ConfigureAwait(false);
        await ended.CancelAsync().ConfigureAwait(false);
        await writing.ConfigureAwait(false);
        await FlushAsync().ConfigureAwait(false);
        int code = process.ExitCode;
        return new RunEnd(code is 0 or 1 && _error.Length == 0 ? RunState.Finished : code is 130 or 143 && _error.Length == 0 ? RunState.Interrupted : RunState.Failed)
        {
            ExitCode = code,
            Outcome = _outcome,
            Error = _error.Length > 0 || code is 0 or 1 ? _error : $"The process ended with code {code}.",
        };
    }

    /// <summary>Sends the process a signal, if it still lives.</summary>
    public void Signal(int signal)
    {
        try
        {
            if (!process.HasExited)
            {
                RunStarter.SignalProcess(process, signal);
            }
        }
        catch (InvalidOperationException)
        {
            // It ended just now.
        }
    }

    public void Dispose() => process.Dispose();

    private static async Task ReadAsync(StreamReader reader, Action<string> line)
    {
        while (await reader.ReadLineAsync().ConfigureAwait(false) is { } read)
        {
            line(read);
        }
    }

    private async Task WriteAsync(CancellationToken ended)
    {
        try
        {
            while (true)
            {
                await Task.Delay(Interval, ended).ConfigureAwait(false);
                await FlushAsync().ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException)
        {
            // The process has ended; what is left is written by who awaits this.
        }
    }

    private async Task FlushAsync()
    {
        List<MetricPoint> metrics;
        List<LogLine> lines;
        double? progress;
        string doing;
        lock (_lock)
        {
            (metrics, _metrics, lines, _lines, progress, doing) = (_metrics, [], _lines, [], _progress, _doing);
        }

        if (metrics.Count > 0 || lines.Count > 0)
        {
            await store.AppendAsync(id, metrics, lines).ConfigureAwait(false);
        }

        await store.BeatAsync(id, progress, doing).ConfigureAwait(false);
    }

    private void Read(string line)
    {
        if (!line.StartsWith('{'))
        {
            Say("say", line);
            return;
        }

        try
        {
            using JsonDocument document = JsonDocument.Parse(line);
            Take(document.RootElement);
        }
        catch (Exception fault) when (fault is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            Say("say", line);
        }
    }

    private void Take(JsonElement said)
    {
        lock (_lock)
        {
            switch (said.GetProperty("event").GetString())
            {
                case "begin":
                    _tasks[said.GetProperty("task").GetInt32()] = (said.GetProperty("name").GetString() ?? "", said.GetProperty("total").GetInt64());
                    (_doing, _progress) = (said.GetProperty("name").GetString() ?? "", 0);
                    break;
                case "progress" when _tasks.TryGetValue(said.GetProperty("task").GetInt32(), out var task):
                    string detail = said.TryGetProperty("detail", out JsonElement d) && d.ValueKind is JsonValueKind.String ? d.GetString()! : "";
                    _doing = detail.Length > 0 ? $"{task.Name}: {detail}" : task.Name;
                    _progress = task.Total > 0 ? Math.Clamp((double)said.GetProperty("done").GetInt64() / task.Total, 0, 1) : null;
                    break;
                case "end":
                    _tasks.Remove(said.GetProperty("task").GetInt32());
                    break;
                case "metric":
                    JsonElement value = said.GetProperty("value");
                    _metrics.Add(new MetricPoint { Name = said.GetProperty("metric").GetString()!, Step = said.GetProperty("step").GetInt64(), Time = DateTime.UtcNow, Value = value.ValueKind is JsonValueKind.Number ? value.GetDouble() : null });
                    break;
                case "say" or "warn":
                    _lines.Add(new LogLine { Time = DateTime.UtcNow, Level = said.GetProperty("event").GetString()!, Text = said.GetProperty("message").GetString() ?? "" });
                    break;
                case "result":
                    _outcome = said.GetProperty("value").GetRawText();
                    break;
                case "error":
                    _error = said.GetProperty("message").GetString() ?? "";
                    break;
            }
        }
    }

    private void Say(string level, string text)
    {
        // The sentence of an error comes as an event as well.
        if (text.Length > 0)
        {
            lock (_lock)
            {
                _lines.Add(new LogLine { Time = DateTime.UtcNow, Level = level, Text = text });
            }
        }
    }
}
