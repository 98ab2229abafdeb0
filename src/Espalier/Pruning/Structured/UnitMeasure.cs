using System.Diagnostics;
using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Pruning.Structured;

/// <summary>
/// The one pass over the dense model that scores its units, block by block: what a block was measured at is durable in
/// the journal, so that a run that was stopped does not measure it again; in a folder of its own where several plans share it.
/// </summary>
internal sealed class UnitMeasure(PruningJob job, StreamedModel model, PruningJournal journal, bool spills, IProgressSink progress)
{
    private const string Scores = "score/", Means = "mean/", Stream = "stream", Importance = "importance";

    private readonly IUnitCriterion _criterion = (IUnitCriterion)job.Plan.Criterion;
    private readonly Units _cuts = job.Importance is null ? ((Pattern.StructuredPattern)job.Plan.Pattern).Cuts : ((IUnitCriterion)job.Plan.Criterion).Ranks;
    private readonly string _folder = job.Importance ?? journal.Folder;

    /// <summary>Measures every block that the journal does not hold yet.</summary>
    public void Run(CancellationToken cancellation)
    {
        Directory.CreateDirectory(_folder);
        int blocks = model.Config.LayerCount;
        int done = Enumerable.Range(0, blocks).Count(i => File.Exists(PathOf(i)));
        if (done == blocks)
        {
            return;
        }

        if (done > 0)
        {
            progress.Say($"Resuming: {done} of {blocks} blocks are already measured.");
        }

        using ActivationStore? hidden = job.Plan.NeedsActivations ? Calibration.Embed(job, model, spills ? journal.Folder : null, cancellation) : null;
        using IProgressTask task = progress.Begin("measuring units", blocks, "block");
        for (int i = 0; i < blocks; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            var clock = Stopwatch.StartNew();
            using (var scope = NewDisposeScope())
            using (DecoderBlock block = model.LoadBlock(i, job.Device))
            {
                if (!File.Exists(PathOf(i)))
                {
                    SafeTensorsFile.Save(PathOf(i), Measure(block, hidden, cancellation));
                    progress.Report("measured_block", i, clock.Elapsed.TotalSeconds);
                }
                else if (hidden is not null)
                {
                    Calibration.Forward(job, block, hidden, hidden, cancellation);
                }
            }

            NativeMemory.Trim();
            task.Advance();
        }
    }

    /// <summary>The importance of every channel of a group's reader [count·channels per unit]; in the caller's scope.</summary>
    public Tensor ScoresOf(int block, CoupledKind kind) => Read(block, Scores + kind);

    /// <summary>The mean of every input of a group's reader; in the caller's scope.</summary>
    public Tensor MeansOf(int block, CoupledKind kind) => Read(block, Means + kind);

    /// <summary>The importance of the channels of the residual stream [hidden], summed over the network; in the caller's scope.</summary>
    public Tensor ChannelScores()
    {
        using var scope = NewDisposeScope();
        return stack([.. Enumerable.Range(0, model.Config.LayerCount).Select(i => Read(i, Stream))]).sum([0L]).MoveToOuterDisposeScope();
    }

    /// <summary>The importance of every layer.</summary>
    public IReadOnlyList<float> LayerScores() => [.. Enumerable.Range(0, model.Config.LayerCount).Select(i =>
    {
        using Tensor score = Read(i, Importance);
        return score.item<float>();
    })];

    private string PathOf(int block) => Path.Combine(_folder, $"units-{block:D5}.safetensors");

    private Tensor Read(int block, string name)
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(PathOf(block));
        return file.Read(name);
    }

    private List<(string Name, Tensor Value)> Measure(DecoderBlock block, ActivationStore? hidden, CancellationToken cancellation)
    {
        using var _ = no_grad();
        using var watched = new Watched(block, BlockUnits.Of(block, _cuts), _cuts.HasFlag(Units.Channels), hidden is null ? null : _criterion, job.Device);
        double importance = 0;
        if (hidden is not null)
        {
            Calibration.Forward(job, block, hidden, outputs: null, cancellation, (from, output) =>
            {
                using var scope = NewDisposeScope();
                if (_cuts.HasFlag(Units.Layers))
                {
                    importance += _criterion.Layer(block.Index, hidden.Read(from, (int)output.shape[0]), output, job.Seed) * output.shape[0] / hidden.Count;
                }

                hidden.Write(from, output);
            });
        }
        else if (_cuts.HasFlag(Units.Layers))
        {
            importance = _criterion.Layer(block.Index, null, null, job.Seed);
        }

        return [.. watched.Figures(_criterion, job.Seed), (Importance, tensor((float)importance))];
    }

    /// <summary>The places of one block that a criterion ranks, watched while the block runs.</summary>
    private sealed class Watched : IDisposable
    {
        private readonly List<(BlockUnits Units, LayerStatistics? Statistics, IUnitWatch? Seen)> _readers = [];
        private readonly List<(string Name, long Width, IUnitWatch? Seen, Action Remove)> _norms = [];

        /// <param name="block">The block.</param>
        /// <param name="units">Its heads and neurons, as far as they are cut.</param>
        /// <param name="channels">Whether channels of the residual stream are ranked.</param>
        /// <param name="criterion">Whose watches to set up; null where nothing flows.</param>
        /// <param name="device">Where it flows.</param>
        public Watched(DecoderBlock block, IReadOnlyList<BlockUnits> units, bool channels, IUnitCriterion? criterion, Device device)
        {
            foreach (BlockUnits group in units)
            {
                Linear reader = group.Reader.Linear;
                IUnitWatch? seen = criterion?.Watch(reader.InFeatures, device);
                LayerStatistics? statistics = criterion is null ? null : new LayerStatistics(CalibrationNeeds.InputNorms | CalibrationNeeds.InputMoments, reader.InFeatures, device);
                _readers.Add((group, statistics, seen));
                if (statistics is not null)
                {
                    reader.InputObserver = x =>
                    {
                        statistics.Observe(x);
                        seen?.Observe(x);
                    };
                }
            }

            long hidden = block.Linears[0].Linear.InFeatures;
            foreach ((string name, nn.Module<Tensor, Tensor> norm) in channels ? block.StreamNorms : [])
            {
                IUnitWatch? seen = criterion?.Watch(hidden, device);
                var hook = seen is null ? null : norm.register_forward_hook((_, _, output) =>
                {
                    seen.Observe(output);
                    return output;
                });
                _norms.Add((name, hidden, seen, () => hook?.remove()));
            }
        }

        /// <summary>What was found out: scores and means of every reader, and the scores of the norms summed.</summary>
        public IEnumerable<(string Name, Tensor Value)> Figures(IUnitCriterion criterion, Seed seed)
        {
            var found = new List<(string, Tensor)>();
            foreach ((BlockUnits units, LayerStatistics? statistics, IUnitWatch? seen) in _readers)
            {
                Tensor weight = units.Reader.Linear.Matrix.detach().to(ScalarType.Float32).contiguous();
                EspalierException.Require(weight.isfinite().all().item<bool>(), $"{units.Reader.Name} holds NaN or infinite weights; the checkpoint is damaged or was never trained to the end.");
                LayerContext? inputs = statistics?.Context(units.Reader.Name, weight);
                found.Add((Scores + units.Group.Kind, Finite(units.Reader.Name, criterion.Score(new UnitContext
                {
                    Name = units.Reader.Name, Kind = units.Group.Kind, Width = weight.shape[1], Weight = weight, InputNorms = inputs?.InputNorms, Seen = seen, Seed = seed,
                }))));
                if (inputs?.InputMean is { } mean)
                {
                    found.Add((Means + units.Group.Kind, mean.cpu()));
                }
            }

            Tensor[] norms = [.. _norms.Select(n => Finite(n.Name, criterion.Score(new UnitContext { Name = n.Name, Kind = CoupledKind.HiddenChannel, Width = n.Width, Seen = n.Seen, Seed = seed })))];
            if (norms.Length > 0)
            {
                found.Add((Stream, stack(norms).sum([0L])));
            }

            return found;
        }

        public void Dispose()
        {
            foreach ((BlockUnits units, LayerStatistics? statistics, IUnitWatch? seen) in _readers)
            {
                units.Reader.Linear.InputObserver = null;
                statistics?.Dispose();
                seen?.Dispose();
            }

            foreach ((_, _, IUnitWatch? seen, Action remove) in _norms)
            {
                remove();
                seen?.Dispose();
            }
        }

        private static Tensor Finite(string name, Tensor score)
        {
            EspalierException.Require(score.isfinite().all().item<bool>(), $"The importance of the units at {name} holds NaN or infinite values; the checkpoint is damaged.");
            return score.cpu();
        }
    }
}
