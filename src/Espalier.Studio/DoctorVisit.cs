using System.Diagnostics;
using System.Text.Json;
using Espalier.Runtime;

namespace Espalier.Studio;

/// <summary>One line of the doctor.</summary>
/// <param name="Name">What was looked at.</param>
/// <param name="Health">ok, warn or fail.</param>
/// <param name="Found">What was found.</param>
/// <param name="Advice">What to do about it; null for nothing.</param>
public sealed record HealthLine(string Name, string Health, string Found, string? Advice);

/// <summary>What the doctor said.</summary>
/// <param name="Health">The worst of all lines.</param>
/// <param name="Checks">All lines.</param>
/// <param name="At">When.</param>
public sealed record HealthReport(string Health, IReadOnlyList<HealthLine> Checks, DateTimeOffset At);

/// <summary>Asks <c>espalier doctor</c>, at most once a minute unless told otherwise.</summary>
internal sealed class DoctorVisit(ToolProcess tool, TimeProvider clock)
{
    private readonly SemaphoreSlim _one = new(1);
    private HealthReport? _last;

    public async Task<HealthReport> AskAsync(bool anew, CancellationToken cancellation)
    {
        await _one.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            if (_last is { } last && clock.GetUtcNow() - last.At < (anew ? TimeSpan.FromSeconds(3) : TimeSpan.FromMinutes(1)))
            {
                return last;
            }

            using Process process = Process.Start(tool.Start(["doctor", "--json"])) ?? throw new EspalierException("The doctor could not be called.");
            process.StandardInput.Close();
            Task<string> error = process.StandardError.ReadToEndAsync(cancellation);
            string output = await process.StandardOutput.ReadToEndAsync(cancellation).ConfigureAwait(false);
            await process.WaitForExitAsync(cancellation).ConfigureAwait(false);
            string line = output.Split('\n', StringSplitOptions.RemoveEmptyEntries).LastOrDefault(l => l.StartsWith('{'))
                ?? throw new EspalierException($"The doctor did not answer: {(await error.ConfigureAwait(false)).Split('\n')[0]}");
            using JsonDocument said = JsonDocument.Parse(line);
            JsonElement value = said.RootElement.GetProperty("value");
            return _last = new HealthReport(Word(value.GetProperty("health")),
                [.. value.GetProperty("checks").EnumerateArray().Select(c => new HealthLine(
                    c.GetProperty("name").GetString()!, Word(c.GetProperty("health")), c.GetProperty("found").GetString()!,
                    c.TryGetProperty("advice", out JsonElement advice) && advice.ValueKind == JsonValueKind.String ? advice.GetString() : null))],
                clock.GetUtcNow());
        }
        finally
        {
            _one.Release();
        }
    }

    private static string Word(JsonElement health) => health.ValueKind == JsonValueKind.Number ? health.GetInt32() switch { 0 => "ok", 1 => "warn", _ => "fail" } : health.GetString()!.ToLowerInvariant();
}
