using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Retraining;

/// <summary>Pruned tiny models and what a retraining is given, for the tests of every retraining.</summary>
internal static class TinyRetraining
{
    /// <summary>Prunes half of every linear map of the blocks, in place.</summary>
    public static Dictionary<string, SparsityMask> Prune(IEnumerable<DecoderBlock> blocks)
    {
        var masks = new Dictionary<string, SparsityMask>();
        foreach (BlockLinear linear in blocks.SelectMany(b => b.Linears))
        {
            using var scope = NewDisposeScope();
            Tensor matrix = linear.Linear.Matrix.detach();
            Tensor keep = MaskSelection.KeepLargestPerRow(matrix.abs(), 0.5, linear.Name);
            linear.Linear.SetMatrix(MaskSelection.Apply(matrix, keep));
            masks[linear.Name] = SparsityMask.FromTensor(keep);
        }

        return masks;
    }

    /// <summary>Three batches of two random sequences, again and again.</summary>
    /// <param name="model">The model to train.</param>
    /// <param name="masks">Its masks.</param>
    /// <param name="folder">The state folder.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="dense">The dense model.</param>
    /// <param name="stop">Cancelled at step 3; null lets the run end.</param>
    public static RetrainingContext Context(
        LanguageModel model, IReadOnlyDictionary<string, SparsityMask> masks, string folder, IProgressSink? progress = null, StreamedModel? dense = null, CancellationTokenSource? stop = null) => new()
    {
        Model = model,
        Dense = dense,
        Masks = masks,
        Batches = (step, micro) =>
        {
            if (step == 3)
            {
                stop?.Cancel();
            }

            return TinyModels.Ids(model.Config, 2, 12, step % 3);
        },
        Seed = new Seed(1),
        StateFolder = folder,
        Progress = progress ?? SilentProgress.Instance,
        Cancellation = stop?.Token ?? default,
    };

    /// <summary>Trains once in one go and once cut at step 3 and resumed; both must end with the same bytes.</summary>
    /// <param name="train">Trains a new model with the state in this folder, cancelled by the source if there is one; gives the model's bytes.</param>
    public static void ResumesToTheByte(Func<string, CancellationTokenSource?, byte[]> train)
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["whole"]);
        Directory.CreateDirectory(folder["cut"]);
        byte[] whole = train(folder["whole"], null);
        using (var stop = new CancellationTokenSource())
        {
            Should.Throw<OperationCanceledException>(() => train(folder["cut"], stop));
        }

        train(folder["cut"], null).ShouldBe(whole);
    }

    /// <summary>Every parameter's bytes.</summary>
    public static byte[] Bytes(LanguageModel model) => [.. model.Tensors.SelectMany(t => t.Value.detach().contiguous().bytes.ToArray())];

    /// <summary>The number of zeros that came back to life.</summary>
    public static long Revived(LanguageModel model, IReadOnlyDictionary<string, SparsityMask> masks)
    {
        using var scope = NewDisposeScope();
        return model.Blocks.SelectMany(b => b.Linears).Sum(l => masks[l.Name].Revived(l.Linear.Matrix.detach()));
    }
}

/// <summary>Remembers what was said and reported.</summary>
internal sealed class Listener : IProgressSink
{
    public List<string> Said { get; } = [];

    public List<(string Name, long Step, double Value)> Reported { get; } = [];

    public IProgressTask Begin(string name, long total, string unit) => SilentProgress.Instance;

    public void Say(string message) => Said.Add(message);

    public void Warn(string message) => Said.Add(message);

    public void Report(string name, long step, double value) => Reported.Add((name, step, value));
}
