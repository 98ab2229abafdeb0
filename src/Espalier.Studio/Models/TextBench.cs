using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Threading.Channels;
using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity.Packed;

namespace Espalier.Studio.Models;

/// <summary>What to continue and how.</summary>
/// <param name="Prompt">The text to continue.</param>
/// <param name="MaxTokens">The most new tokens.</param>
/// <param name="Temperature">0 takes the likeliest token.</param>
/// <param name="TopK">Draws among so many tokens; null for all.</param>
/// <param name="TopP">Draws among the likeliest tokens that have this probability together.</param>
/// <param name="Seed">The seed of the draw.</param>
public sealed record TextRequest(string Prompt, int MaxTokens = 64, double Temperature = 0.8, int? TopK = 40, double TopP = 1, long Seed = 0);

/// <summary>A piece of a text as it is made; the last one says how fast it was.</summary>
/// <param name="Text">What came.</param>
/// <param name="Tokens">Tokens so far.</param>
/// <param name="Done">Whether this is the end.</param>
/// <param name="TokensPerSecond">At the end: the speed.</param>
/// <param name="Error">At the end: what went wrong; null for nothing.</param>
public sealed record TextPiece(string Text, int Tokens, bool Done = false, double? TokensPerSecond = null, string? Error = null);

/// <summary>Lets models continue texts: a few stay loaded, two write at the same time.</summary>
internal sealed class TextBench(ModelShelf shelf) : IDisposable
{
    private const int MostLoaded = 3, MostAtOnce = 2, MostTokens = 512, MostLetters = 8_000;
    private const long MostBytes = 4L << 30;

    private readonly SemaphoreSlim _writing = new(MostAtOnce), _loading = new(1);
    private readonly List<Loaded> _loaded = [];

    /// <summary>Continues a text.</summary>
    /// <exception cref="EspalierException">Before the first piece: for an unknown model, one that is too large for the page, or options that are not possible.</exception>
    public async IAsyncEnumerable<TextPiece> WriteAsync(string key, TextRequest request, [EnumeratorCancellation] CancellationToken cancellation)
    {
        await _writing.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            Channel<TextPiece> pieces = Channel.CreateBounded<TextPiece>(64);
            Task work = Task.Run(() => Write(key, request, pieces.Writer, cancellation), CancellationToken.None);
            await foreach (TextPiece piece in pieces.Reader.ReadAllAsync(CancellationToken.None).ConfigureAwait(false))
            {
                yield return piece;
            }

            await work.ConfigureAwait(false);
        }
        finally
        {
            _writing.Release();
        }
    }

    /// <summary>Refuses what cannot be done, before the answer begins.</summary>
    public void Check(string key, TextRequest request)
    {
        ModelCard card = shelf.Card(key);
        EspalierException.Require(!card.Vision, $"{card.Name} reads images, not text.");
        EspalierException.Require(card.Bytes <= MostBytes, $"{card.Name} takes {Text.Bytes(card.Bytes)}, more than this page loads ({Text.Bytes(MostBytes)}); use `espalier generate`.");
        EspalierException.Require(!string.IsNullOrEmpty(request.Prompt), "Write a few words for the model to continue.");
        EspalierException.Require(request.Prompt.Length <= MostLetters, $"The prompt has {request.Prompt.Length} letters; this page takes {MostLetters}.");
        EspalierException.Require(request.MaxTokens is >= 1 and <= MostTokens, $"Ask for 1 to {MostTokens} new tokens.");
        _ = Options(request);
    }

    public void Dispose()
    {
        foreach (Loaded loaded in _loaded)
        {
            loaded.Model.Dispose();
        }

        _writing.Dispose();
        _loading.Dispose();
    }

    private static GenerationOptions Options(TextRequest request) => new()
    {
        MaxNewTokens = request.MaxTokens,
        Temperature = request.Temperature,
        TopK = request.TopK,
        TopP = request.TopP,
        Seed = new Seed(request.Seed),
    };

    private async Task Write(string key, TextRequest request, ChannelWriter<TextPiece> pieces, CancellationToken cancellation)
    {
        int tokens = 0;
        try
        {
            Loaded loaded = await LoadAsync(key, cancellation).ConfigureAwait(false);
            IReadOnlyList<int> ids = loaded.Tokenizer.Encode(request.Prompt);
            TokenDecoder decoder = loaded.Tokenizer.StartDecoding();
            foreach (int id in ids)
            {
                decoder.Push(id);
            }

            var clock = Stopwatch.StartNew();

            // A model has buffers of its own for a step, so it writes one text at a time.
            lock (loaded)
            {
                foreach (int id in new TextGenerator(loaded.Model).Generate(ids, Options(request), cancellation))
                {
                    tokens++;
                    string piece = decoder.Push(id);
                    SpinWait.SpinUntil(() => pieces.TryWrite(new TextPiece(piece, tokens)) || cancellation.IsCancellationRequested);
                }
            }

            await pieces.WriteAsync(new TextPiece(decoder.Flush(), tokens, true, tokens / Math.Max(clock.Elapsed.TotalSeconds, 1e-6)), CancellationToken.None).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            // The reader has left.
        }
        catch (Exception fault)
        {
            string sentence = fault is EspalierException ? fault.Message : "The model could not continue this text.";
            await pieces.WriteAsync(new TextPiece("", tokens, true, null, sentence), CancellationToken.None).ConfigureAwait(false);
        }
        finally
        {
            pieces.Complete();
        }
    }

    private async Task<Loaded> LoadAsync(string key, CancellationToken cancellation)
    {
        await _loading.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            ModelCard card = shelf.Card(key);
            if (_loaded.FirstOrDefault(l => l.Key == key) is { } known)
            {
                _loaded.Remove(known);
                if (known.Changed == card.Changed)
                {
                    _loaded.Add(known);
                    return known;
                }
            }

            string folder = shelf.FolderOf(key);
            ITensorSource source = PackedSource.OpenAny(folder);
            using var opened = source as IDisposable;
            LanguageModel model = LanguageModel.Load(ModelConfig.Load(folder), source, TorchSharp.torch.CPU, SilentProgress.Instance, compact: true);
            var loaded = new Loaded(key, card.Changed, model, Tokenizer.Load(folder));
            _loaded.Add(loaded);
            if (_loaded.Count > MostLoaded)
            {
                // One that still writes is left to the collector; it ends with its text.
                Loaded oldest = _loaded[0];
                _loaded.RemoveAt(0);
                if (Monitor.TryEnter(oldest))
                {
                    oldest.Model.Dispose();
                    Monitor.Exit(oldest);
                }
            }

            return loaded;
        }
        finally
        {
            _loading.Release();
        }
    }

    private sealed record Loaded(string Key, DateTimeOffset Changed, LanguageModel Model, Tokenizer Tokenizer);
}
