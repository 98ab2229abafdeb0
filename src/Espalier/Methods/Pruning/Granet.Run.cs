using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Granet
{
    /// <summary>One training: masks at the start, changed by the loop's step.</summary>
    private sealed class Run : ISparseTrainingRun
    {
        private readonly Granet _options;
        private readonly SparseTrainingContext _context;
        private readonly GranetSchedule _schedule;
        private readonly Dictionary<string, Tensor> _masks, _gradients = [];
        private readonly HashSet<string> _thin = [];
        private double _share, _used;
        private long _steps;

        public Run(Granet options, SparseTrainingContext context)
        {
            (_options, _context, _schedule) = (options, context, options.Schedule(context.Steps));
            bool atEnd = options.Variant is GranetVariant.RigL or GranetVariant.Static;
            double density = atEnd ? _schedule.FinalDensity : _schedule.InitialDensity;
            IReadOnlyList<double> densities = ErkDensities([.. context.Weights.Select(w => w.Value.shape)], density);
            _masks = context.Weights.Index().ToDictionary(w => w.Item.Name, w => Draw(w.Item, densities[w.Index]));
            _share = Share(w => _masks[w.Name]);
        }

        public string Name => "granet";

        public string Description => $"granet {_options}";

        public IReadOnlyDictionary<string, Tensor> Masks => _masks;

        public double TrainingShare => _steps == 0 ? 1 : _used / _steps;

        private bool Regrows => _options.Variant is GranetVariant.GraNet or GranetVariant.RigL;

        private bool Prunes => _options.Variant is GranetVariant.GraNet or GranetVariant.Gmp;

        // The loop hides the gradients of pruned weights from the optimiser afterwards; growth needs them.
        public void AfterBackward(TrainingStep step)
        {
            if (Regrows && _schedule.Changes(step.Index + 1))
            {
                foreach (NetWeight weight in _context.Weights)
                {
                    Tensor? gradient = weight.Value.grad;
                    _gradients[weight.Name] = (gradient?.clone() ?? zeros_like(weight.Value, requires_grad: false)).DetachFromDisposeScope();
                }
            }
        }

        public void AfterStep(TrainingStep step)
        {
            _used += _share;
            _steps++;
            long s = step.Index + 1;
            if (!(Regrows || Prunes) || !_schedule.Changes(s))
            {
                return;
            }

            if (Prunes && _schedule.PruneRate(s) is { } rate)
            {
                IReadOnlyList<Tensor> keep = GradualPrune([.. _context.Weights.Select(w => (Tensor)w.Value)], rate);
                Set(step, keep);
            }

            if (Regrows)
            {
                double rho = GranetSchedule.RegrowRate(_options.PruneRate, s, _context.Steps);
                Set(step, [.. _context.Weights.Select(w => Regenerate(w.Value, step.Loop.KeepMask(w.Name)!, _gradients[w.Name], rho).Keep)]);
                Forget();
            }

            _share = Share(w => step.Loop.KeepMask(w.Name)!);
            _context.Progress.Report("sparsity", step.Index, 1 - Density(step));
            WarnOfThinLayers(step);
        }

        public IReadOnlyList<(string Name, Tensor Value)> SaveState() => [("work", tensor([_used, _steps, _share], ScalarType.Float64))];

        public void LoadState(IReadOnlyDictionary<string, Tensor> state)
        {
            double[] work = [.. state["work"].data<double>()];
            (_used, _steps, _share) = (work[0], (long)work[1], work[2]);
        }

        // Nothing is held outside the weights.
        public void Finish()
        {
        }

        public void Dispose()
        {
            Forget();
            foreach (Tensor mask in _masks.Values)
            {
                mask.Dispose();
            }
        }

        private Tensor Draw(NetWeight weight, double density)
        {
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            using Generator generator = _context.Seed.Generator($"granet {weight.Name}");
            Tensor keep = rand(weight.Value.shape, generator: generator).lt(density).to(weight.Value.device);
            weight.Value.masked_fill_(keep.logical_not(), 0);
            return keep.DetachFromDisposeScope();
        }

        private void Set(TrainingStep step, IReadOnlyList<Tensor> keep)
        {
            foreach ((int i, NetWeight weight) in _context.Weights.Index())
            {
                step.Loop.SetKeepMask(weight.Name, keep[i]);
            }
        }

        private double Share(Func<NetWeight, Tensor> mask)
        {
            using var scope = NewDisposeScope();
            return _context.Weights.Sum(w => w.Macs * ((double)mask(w).count_nonzero().item<long>() / w.Value.numel())) / _context.Weights.Sum(w => w.Macs);
        }

        private double Density(TrainingStep step) =>
            (double)_context.Weights.Sum(w => step.Loop.KeepMask(w.Name)!.count_nonzero().item<long>()) / _context.Weights.Sum(w => w.Value.numel());

        // A layer of fewer than 1/ρ weights loses its last ones at each change.
        private void WarnOfThinLayers(TrainingStep step)
        {
            foreach (NetWeight weight in _context.Weights)
            {
                long kept = step.Loop.KeepMask(weight.Name)!.count_nonzero().item<long>();
                if (Regrows && kept * _options.PruneRate < 1 && _thin.Add(weight.Name))
                {
                    _context.Progress.Warn($"{weight.Name} has {kept} weights left after step {step.Index}; changes of the masks can replace all of them at once.");
                }
            }
        }

        private void Forget()
        {
            foreach (Tensor gradient in _gradients.Values)
            {
                gradient.Dispose();
            }

            _gradients.Clear();
        }
    }
}
