using Espalier.Models;
using Microsoft.ML.OnnxRuntime;

namespace Espalier.Tests.Models.Export;

/// <summary>An exported file in ONNX Runtime: a reader that nobody here has written.</summary>
internal sealed class OnnxRuntimeReader : IDisposable
{
    private readonly SessionOptions options = new() { IntraOpNumThreads = 1, LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR };
    private readonly InferenceSession session;
    private readonly RunOptions run = new();
    private Dictionary<string, OrtValue> past = [];

    public OnnxRuntimeReader(string path)
    {
        session = new InferenceSession(path, options);
    }

    /// <summary>Logits [batch · tokens · vocabulary] of ids [batch, tokens]; with a cache, behind those that went before.</summary>
    public float[] Logits(long[] ids, int batch, ModelConfig? cached = null)
    {
        using OrtValue given = OrtValue.CreateTensorValueFromMemory(ids, [batch, ids.Length / batch]);
        var inputs = new Dictionary<string, OrtValue>(past) { ["input_ids"] = given };
        if (cached is not null && past.Count == 0)
        {
            foreach (string name in session.InputNames.Where(n => n.StartsWith("past", StringComparison.Ordinal)))
            {
                int block = int.Parse(name.Split('.')[1]);
                inputs[name] = past[name] = OrtValue.CreateTensorValueFromMemory(Array.Empty<float>(), [batch, cached.ShapeOf(block).KeyValueHeads, 0, cached.HeadDim]);
            }
        }

        string[] outputs = [.. session.OutputNames];
        IReadOnlyList<OrtValue> made = session.Run(run, inputs, outputs);
        float[] logits = made[outputs.IndexOf("logits")].GetTensorDataAsSpan<float>().ToArray();
        Forget();
        past = outputs.Zip(made).Where(o => o.First != "logits").ToDictionary(o => o.First.Replace("present", "past_key_values"), o => o.Second);
        made[outputs.IndexOf("logits")].Dispose();
        return logits;
    }

    /// <summary>Greedy continuation: with a cache token by token, else the whole text each time.</summary>
    public int[] Continue(int[] prompt, int count, int vocabulary, ModelConfig? cached = null)
    {
        List<long> text = [.. prompt.Select(i => (long)i)];
        for (int i = 0; i < count; i++)
        {
            float[] logits = Logits(cached is not null && i > 0 ? [text[^1]] : [.. text], 1, cached);
            text.Add(Enumerable.Range(0, vocabulary).MaxBy(v => logits[logits.Length - vocabulary + v]));
        }

        return [.. text.Skip(prompt.Length).Select(i => (int)i)];
    }

    public void Dispose()
    {
        Forget();
        run.Dispose();
        session.Dispose();
        options.Dispose();
    }

    private void Forget()
    {
        foreach (OrtValue value in past.Values)
        {
            value.Dispose();
        }

        past = [];
    }
}
