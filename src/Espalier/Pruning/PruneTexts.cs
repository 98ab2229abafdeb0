using System.Security.Cryptography;
using System.Text;
using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Models;
using Espalier.Runtime;

namespace Espalier.Pruning;

/// <summary>The texts of pruning jobs, cut into windows. What several jobs share (a tokeniser, windows of one draw) is read and drawn once.</summary>
/// <param name="progress">Where progress is told.</param>
/// <param name="cancellation">Ends the work early.</param>
/// <param name="cache">Windows of earlier runs; null: the user's (<see cref="WindowCache.FromEnvironment"/>).</param>
public sealed class PruneTexts(IProgressSink progress, CancellationToken cancellation = default, WindowCache? cache = null)
{
    private const int LongestCalibration = 2048, LongestContext = 4096;

    private readonly Dictionary<string, Tokenizer> _tokenizers = [];
    private readonly Dictionary<object, long[][]> _windows = [];
    private readonly Dictionary<string, string> _hashes = [];
    private readonly WindowCache _cache = cache ?? WindowCache.FromEnvironment();

    /// <summary>The tokeniser of a model's folder.</summary>
    public Tokenizer Tokenizer(string folder) =>
        _tokenizers.TryGetValue(folder, out Tokenizer? known) ? known : _tokenizers[folder] = Data.Tokenizer.Load(folder);

    /// <summary>The documents of a data set by its reference.</summary>
    /// <exception cref="EspalierException">When there is no such text.</exception>
    public TextDataset Open(string reference) =>
        TextDataset.Open(DataReference.Parse(reference), id => Hub.ResolveDataset(id, progress, cancellation: cancellation));

    /// <summary>Calibration windows.</summary>
    /// <param name="data">The section of the plan; it names a calibration text.</param>
    /// <param name="folder">The model's folder, for its tokeniser.</param>
    /// <param name="config">The model, for its context.</param>
    /// <param name="seed">Fixes the draw.</param>
    /// <exception cref="EspalierException">When the text is not there or too short.</exception>
    public long[][] Calibration(DataSection data, string folder, ModelConfig config, Seed seed)
    {
        int length = data.Length ?? Math.Min(config.MaxPositions, LongestCalibration);
        return Drawn(("calibration", folder, data.Calibration, data.Samples, length, seed.Value), () =>
        {
            progress.Say($"Reading calibration text {data.Calibration}.");
            TextDataset text = Open(data.Calibration!);
            return _cache.Get(text, $"calibration of {data.Samples} x {length}, seed {seed.Value}, tokeniser {HashOf(folder)}", progress, sink =>
                TokenWindows.ToArrays(CalibrationSampler.Sample(text, Tokenizer(folder), data.Samples, length, seed, sink, cancellation)));
        });
    }

    /// <summary>Evaluation windows, one after the other from the text's start.</summary>
    /// <param name="data">The section of the plan; it names an evaluation text.</param>
    /// <param name="folder">The model's folder, for its tokeniser.</param>
    /// <param name="config">The model, for its context.</param>
    /// <exception cref="EspalierException">When the text is not there or too short.</exception>
    public long[][] Evaluation(DataSection data, string folder, ModelConfig config)
    {
        int context = data.Context ?? Math.Min(config.MaxPositions, LongestContext);
        return Drawn(("evaluation", folder, data.Evaluation, data.Windows, context), () =>
        {
            progress.Say($"Reading evaluation text {data.Evaluation}.");
            TextDataset text = Open(data.Evaluation!);
            return _cache.Get(text, $"evaluation of {data.Windows} x {context}, tokeniser {HashOf(folder)}", progress, _ =>
                TokenWindows.ForPerplexity(text, Tokenizer(folder), context, data.Windows));
        });
    }

    /// <summary>Refuses a text that cannot be retrained on; what is long enough is not read to its end.</summary>
    /// <param name="reference">The text.</param>
    /// <param name="tokenizer">The model's tokeniser.</param>
    /// <param name="length">Tokens per sequence.</param>
    /// <exception cref="EspalierException">When the text is not there or too short.</exception>
    public void RequireRetrainable(string reference, Tokenizer tokenizer, int length)
    {
        long tokens = 0;
        foreach (string document in Open(reference).Documents)
        {
            cancellation.ThrowIfCancellationRequested();
            tokens += TokenWindows.FromDocuments([document], tokenizer).Length;
            if (tokens >= PackedTokens.Fewest(length))
            {
                return;
            }
        }

        PackedTokens.RequireEnough(tokens, length);
    }

    private long[][] Drawn(object draw, Func<long[][]> make) =>
        _windows.TryGetValue(draw, out long[][]? known) ? known : _windows[draw] = make();

    // A hash over every file that may decide how the model's folder tokenises.
    private string HashOf(string folder)
    {
        if (!_hashes.TryGetValue(folder, out string? known))
        {
            using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            foreach (string path in CompanionFiles.All.Append("spiece.model").Select(n => Path.Combine(folder, n)).Where(File.Exists))
            {
                byte[] content = File.ReadAllBytes(path);
                hash.AppendData(Encoding.UTF8.GetBytes($"{Path.GetFileName(path)} {content.Length}\n"));
                hash.AppendData(content);
            }

            _hashes[folder] = known = Convert.ToHexStringLower(hash.GetHashAndReset());
        }

        return known;
    }
}
