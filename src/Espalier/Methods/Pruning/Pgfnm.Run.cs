using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Pgfnm
{
    /// <summary>One training: the weights that are used are made from the stored ones at every forward pass.</summary>
    private sealed class Run : ISparseTrainingRun
    {
        private readonly Pgfnm _options;
        private readonly SparseTrainingContext _context;
        private readonly PgfnmSchedule _schedule;
        private readonly IReadOnlyList<NmFrame> _frames;
        private readonly IReadOnlyList<NetWeight> _weights;
        private readonly double _coefficient;
        private NmFrame? _frame;
        private double _beta = 1, _used;
        private long _steps;

        public Run(Pgfnm options, SparseTrainingContext context)
        {
            (_options, _context, _schedule) = (options, context, options.Schedule(context.Steps));
            (_frames, _coefficient) = (_schedule.Frames(), options.CoefficientFor(_schedule));
            _weights = options.Chosen(context.Weights, _frames.Max(f => f.M));
            foreach (NetWeight weight in _weights)
            {
                weight.Change(stored => _frame is null ? stored : Effective(stored, Keep(weight, _frame), _beta, options.Flow));
            }

            context.Progress.Say($"{_weights.Count} of {context.Weights.Count} weights are trained to {options.N}:{options.M}.");
        }

        public string Name => "pgfnm";

        public string Description => $"pgfnm {_options with { Layers = null }} of {string.Join(' ', _weights.Select(w => w.Name))}";

        public IReadOnlyDictionary<string, Tensor>? Masks => null;

        public double TrainingShare => _steps == 0 ? 1 : _used / _steps;

        public void BeforeStep(TrainingStep step)
        {
            bool last = _schedule.IsFineTuning(step.Index);
            _frame = step.Index < _schedule.Dense ? null : last ? _frames[^1] : _frames.Last(f => f.From <= step.Index);
            _beta = last ? 0 : PgfnmSchedule.Beta(_options.Decay, _coefficient, step.Index - _schedule.Dense);
        }

        // SR-STE: λ_w (1 − m) ∘ W on top of the straight-through gradient.
        public void AfterBackward(TrainingStep step)
        {
            if (_options.Decay is NmDecay.SrSte && _frame is { } frame)
            {
                foreach (NetWeight weight in _weights)
                {
                    weight.Value.grad?.add_(weight.Value.masked_fill(Keep(weight, frame), 0), _options.SrSteLambda);
                }
            }
        }

        public void AfterStep(TrainingStep step)
        {
            double density = _frame is null || _beta > 0 ? 1 : (double)_frame.N / _frame.M;
            double chosen = _weights.Sum(w => (double)w.Macs), all = _context.Weights.Sum(w => (double)w.Macs);
            _used += (all - (chosen * (1 - density))) / all;
            _steps++;
        }

        public IReadOnlyList<(string Name, Tensor Value)> SaveState() => [("work", tensor([_used, _steps], ScalarType.Float64))];

        public void LoadState(IReadOnlyDictionary<string, Tensor> state)
        {
            double[] work = [.. state["work"].data<double>()];
            (_used, _steps) = (work[0], (long)work[1]);
        }

        public void Finish()
        {
            using var frozen = no_grad();
            foreach (NetWeight weight in _weights)
            {
                using var scope = NewDisposeScope();
                weight.Value.masked_fill_(Keep(weight, _frames[^1]).logical_not(), 0);
            }

            Dispose();
        }

        public void Dispose()
        {
            foreach (NetWeight weight in _weights)
            {
                weight.Change(null);
            }
        }

        private Tensor Keep(NetWeight weight, NmFrame frame) => Mask(weight.Value, frame.N, frame.M, _options.LayoutOf(weight));
    }
}
