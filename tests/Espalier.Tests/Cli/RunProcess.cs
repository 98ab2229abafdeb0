using System.Diagnostics;

namespace Espalier.Tests.Cli;

/// <summary>The tool in a process of its own, with a record of its runs.</summary>
internal sealed class RunProcess : IDisposable
{
    private const string Config = """
        {"model_type":"llama","hidden_size":32,"intermediate_size":64,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":2,
         "vocab_size":300,"max_position_embeddings":64,"rms_norm_eps":1e-5,"hidden_act":"silu","tie_word_embeddings":true,"rope_theta":10000.0}
        """;

    private readonly Process _process;
    private readonly Task<string> _output, _error;

    private RunProcess(string store, IReadOnlyList<string> words, IReadOnlyDictionary<string, string> environment)
    {
        var start = new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, "Espalier.Cli.dll"), .. words]) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["ESPALIER_RUNS"] = store;
        start.Environment["OMP_NUM_THREADS"] = "1";
        foreach ((string name, string value) in environment)
        {
            start.Environment[name] = value;
        }

        _process = Process.Start(start)!;
        (_output, _error) = (_process.StandardOutput.ReadToEndAsync(), _process.StandardError.ReadToEndAsync());
    }

    public int Id => _process.Id;

    public bool HasExited => _process.HasExited;

    public static RunProcess Start(string store, params string[] words) => new(store, words, new Dictionary<string, string>());

    public static RunProcess Start(IReadOnlyDictionary<string, string> environment, params string[] words) => new("none", words, environment);

    /// <summary>Kills it as the system does when memory runs out: no handler runs.</summary>
    public void Kill() => _process.Kill();

    public async Task<Tool> EndAsync()
    {
        await _process.WaitForExitAsync();
        return new Tool(_process.ExitCode, await _output, await _error);
    }

    public void Dispose()
    {
        if (!_process.HasExited)
        {
            _process.Kill();
            _process.WaitForExit();
        }

        _process.Dispose();
    }

    /// <summary>Writes what a small training needs, and gives its words.</summary>
    public static async Task<string[]> TrainingAsync(TemporaryFolder folder, string name, int steps)
    {
        if (!Directory.Exists(folder["tokenizer"]))
        {
            File.WriteAllText(folder["text.txt"], string.Concat(Enumerable.Range(0, 400).Select(i => $"The cat number {i % 7} sat on the mat, and it was content; dogs like {i} bones. ")));
            File.WriteAllText(folder["config.json"], Config);
            (await Tool.RunAsync("tokenizer", "train", "--data", folder["text.txt"], "--vocab", "300", "--out", folder["tokenizer"])).Code.ShouldBe(0);
        }

        return ["train", "--config", folder["config.json"], "--tokenizer", folder["tokenizer"], "--data", folder["text.txt"], "--steps", $"{steps}", "--batch", "1", "--length", "16",
            "--save-every", "10", "--lr", "1e-3", "--out", folder[name]];
    }
}
