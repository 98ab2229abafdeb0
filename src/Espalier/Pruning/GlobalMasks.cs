using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>
/// Decides the masks of a ranking over the whole model. Scores that need activations are taken from the dense model in
/// one pass and kept in the working folder; scores of weights alone are computed anew each time.
/// </summary>
internal sealed class GlobalMasks(PruningJob job, StreamedModel model, PruningJournal journal, PruningPreview preview, IProgressSink progress)
{
    private readonly ICriterion _criterion = job.Plan.Criterion;

    /// <summary>Ranks all weights and answers which of one layer stay, asked in any order.</summary>
    public Func<string, Tensor, Tensor> Decide(CancellationToken cancellation)
    {
        if (_criterion.Needs is not CalibrationNeeds.None)
        {
            ScoreDense(cancellation);
        }

        var selection = new GlobalSelection(job.Plan.Pattern.Sparsity);
        using IProgressTask task = progress.Begin("ranking all weights", 3L * model.Config.LayerCount, "block");
        Each(selection.CountHigh, task, cancellation);
        Each(selection.CountLow, task, cancellation);
        var masks = new Dictionary<string, SparsityMask>(StringComparer.Ordinal);
        Each((score, name) => { using Tensor keep = selection.Keep(score, name); masks[name] = SparsityMask.FromTensor(keep); }, task, cancellation);
        return (name, weight) => masks[name].ToTensor(weight.device);
    }

    private string PathOf(int block) => Path.Combine(journal.Folder, $"scores-{block:D5}.safetensors");

    private void Each(Action<Tensor, string> visit, IProgressTask task, CancellationToken cancellation)
    {
        for (int i = 0; i < model.Config.LayerCount; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            using var whole = NewDisposeScope();
            if (_criterion.Needs is CalibrationNeeds.None)
            {
                using DecoderBlock block = model.LoadBlock(i, job.Device);
                foreach (BlockLinear linear in block.Linears)
                {
                    using var scope = NewDisposeScope();
                    visit(_criterion.Score(new LayerContext { Name = linear.Name, Weight = linear.Linear.Matrix.detach().contiguous(), Seed = job.Seed }), linear.Name);
                }
            }
            else
            {
                using SafeTensorsFile scores = SafeTensorsFile.Open(PathOf(i));
                foreach (string name in preview.Layers.Where(l => l.Block == i).Select(l => l.Name))
                {
                    using Tensor score = scores.Read(name);
                    visit(score, name);
                }
            }

            task.Advance();
        }
    }

    private void ScoreDense(CancellationToken cancellation)
    {
        using ActivationStore hidden = Calibration.Embed(job, model, preview.Spills ? journal.Folder : null, cancellation);
        using IProgressTask task = progress.Begin("scoring", model.Config.LayerCount, "block");
        using var _ = no_grad();
        for (int i = 0; i < model.Config.LayerCount; i++)
        {
            using var whole = NewDisposeScope();
            using DecoderBlock block = model.LoadBlock(i, job.Device);
            using var watch = new BlockPruner(job.Plan, preview.Asked).Observe(block, job.Device);
            Calibration.Forward(job, block, hidden, hidden, cancellation);
            watch.Stop();
            if (!File.Exists(PathOf(i)))
            {
                using var scope = NewDisposeScope();
                SafeTensorsFile.Save(PathOf(i), block.Linears.Select(l =>
                    (l.Name, _criterion.Score(watch.Of(l.Stage).Context(l.Name, l.Linear.Matrix.detach().contiguous(), job.Seed)))));
            }

            task.Advance();
        }
    }
}
