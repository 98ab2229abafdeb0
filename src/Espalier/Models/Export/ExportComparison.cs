using Espalier.Checkpoints.Gguf;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Export;

/// <summary>The logits of an exported file, opened anew and read back, against those of its checkpoint, on the same random tokens.</summary>
/// <param name="Tokens">How many positions were compared.</param>
/// <param name="RelativeError">‖exported − source‖ / ‖source‖ over all logits.</param>
/// <param name="Divergence">The mean Kullback-Leibler divergence of the exported next-token distribution from the source's, in nats.</param>
/// <param name="Agreement">The share of positions with the same likeliest token.</param>
/// <param name="Tolerance">The greatest relative error that the type explains.</param>
public sealed record ExportComparison(int Tokens, double RelativeError, double Divergence, double Agreement, double Tolerance)
{
    private const int Length = 64;

    /// <summary>Compares what a file answers with what its model does.</summary>
    /// <param name="source">The model.</param>
    /// <param name="exported">Token ids [1, tokens] to the file's logits [1, tokens, vocabulary].</param>
    /// <param name="tolerance">The greatest relative error that the type explains.</param>
    /// <param name="progress">Told block by block.</param>
    /// <param name="cancellation">Ends the work between two blocks.</param>
    internal static ExportComparison Make(StreamedModel source, Func<Tensor, Tensor> exported, double tolerance, IProgressSink progress, CancellationToken cancellation)
    {
        using var scope = NewDisposeScope();
        using var inference = no_grad();
        int tokens = Math.Min(Length, source.Config.MaxPositions);
        using Generator generator = new Seed(0).Generator("export comparison");
        Tensor ids_1T = randint(0, source.Config.VocabSize, [1, tokens], dtype: ScalarType.Int64, generator: generator);
        Tensor theirs_1TV = Logits(source, ids_1T, progress, cancellation), ours_1TV = exported(ids_1T);
        double error = ((ours_1TV - theirs_1TV).norm() / theirs_1TV.norm().clamp_min(1e-30)).item<float>();
        Tensor p = theirs_1TV.log_softmax(-1), q = ours_1TV.log_softmax(-1);
        double divergence = (p.exp() * (p - q)).sum(-1).mean().item<float>();
        double agreement = theirs_1TV.argmax(-1).eq(ours_1TV.argmax(-1)).to(ScalarType.Float32).mean().item<float>();
        return new ExportComparison(tokens, error, Math.Max(0, divergence), agreement, tolerance);
    }

    /// <summary>The same for a GGUF file, opened anew and read back.</summary>
    internal static ExportComparison Make(StreamedModel source, string path, IReadOnlyList<TensorRule> rules, GgufType type, IProgressSink progress, CancellationToken cancellation)
    {
        using GgufFile file = GgufFile.Open(path);
        using var exported = new StreamedModel(source.Config, new GgufModelSource(file, rules));
        return Make(source, ids_1T => Logits(exported, ids_1T, progress, cancellation), ToleranceOf(type), progress, cancellation);
    }

    // Measured errors are about a third of these or less; a wrong arrangement of rows gives about 1.
    private static double ToleranceOf(GgufType type) => type switch
    {
        GgufType.F32 => 1e-5,
        GgufType.F16 => 1e-2,
        GgufType.BF16 => 5e-2,
        GgufType.Q8_0 => 0.1,
        _ => 0.6,
    };

    internal static Tensor Logits(StreamedModel model, Tensor ids_1T, IProgressSink progress, CancellationToken cancellation)
    {
        using var scope = NewDisposeScope();
        using IProgressTask task = progress.Begin("comparing", model.BlockCount, "block");
        Tensor hidden_1TH;
        using (Embedding embedding = model.LoadEmbedding())
        {
            hidden_1TH = embedding.Forward(ids_1T, 0);
        }

        for (int i = 0; i < model.BlockCount; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            using DecoderBlock block = model.LoadBlock(i);
            hidden_1TH = block.Forward(hidden_1TH);
            task.Advance();
        }

        using OutputHead head = model.LoadHead();
        return head.Forward(hidden_1TH).MoveToOuterDisposeScope();
    }
}
