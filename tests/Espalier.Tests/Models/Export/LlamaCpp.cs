using System.Diagnostics;
using System.Text.Json;

namespace Espalier.Tests.Models.Export;

/// <summary>llama.cpp as node-llama-cpp ships it: a reader of GGUF files that nobody here has written.</summary>
internal static class LlamaCpp
{
    private static readonly JsonSerializerOptions Json = new(JsonSerializerDefaults.Web);

    /// <summary>One continuation to make: of a text or of ids.</summary>
    internal sealed record Job(string File, string? Text, IReadOnlyList<int>? Ids, int Count);

    /// <summary>The prompt's ids, the ids that follow greedily, and the log-probabilities before each of them; or an error.</summary>
    internal sealed record Answer(int[]? Prompt, int[]? Made, double[][]? Logs, string? Text, string? Error);

    /// <summary>Runs jobs in one process.</summary>
    public static IReadOnlyList<Answer> Run(params IReadOnlyList<Job> jobs)
    {
        Install();
        string folder = Path.Combine(TestPaths.Repository, "artifacts", "llama-cpp");
        string script = Path.Combine(TestPaths.Repository, "tests", "Espalier.Tests", "Models", "Export", "read-gguf.mjs");
        (int code, string output, string error) = Start("node", script, JsonSerializer.Serialize(new { folder, jobs }, Json));
        code.ShouldBe(0, error);
        return JsonSerializer.Deserialize<Answer[]>(output.Trim().Split('\n')[^1], Json)!;
    }

    // A machine without npm or a way to its packages skips; in CI that is a failure.
    private static void Install()
    {
        try
        {
            (int code, _, string error) = Start("bash", Path.Combine(TestPaths.Repository, "build", "llama-cpp.sh"), "");
            if (code == 0)
            {
                return;
            }

            Leave($"build/llama-cpp.sh failed: {error.Trim()}");
        }
        catch (System.ComponentModel.Win32Exception fault)
        {
            Leave(fault.Message);
        }
    }

    private static void Leave(string reason)
    {
        Assert.False(Environment.GetEnvironmentVariable("CI") == "true", $"In CI this is a failure: {reason}");
        Assert.Skip($"needs node-llama-cpp from npm: {reason}");
    }

    private static (int Code, string Output, string Error) Start(string program, string argument, string input)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, [argument]) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true, UseShellExecute = false })!;
        Task<string> output = process.StandardOutput.ReadToEndAsync(), error = process.StandardError.ReadToEndAsync();
        process.StandardInput.Write(input);
        process.StandardInput.Close();
        process.WaitForExit();
        return (process.ExitCode, output.Result, error.Result);
    }
}
