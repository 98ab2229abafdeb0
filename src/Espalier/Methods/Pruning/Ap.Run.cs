using Espalier.Evaluation;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Ap
{
    /// <summary>One training: a dense cycle and pruned ones, each from the first weights and with the whole learning-rate schedule.</summary>
    private sealed class Run : ISparseTrainingRun
    {
        private readonly Ap _options;
        private readonly SparseTrainingContext _context;
        private readonly TrainingWork _work;
        private readonly SortedDictionary<string, Tensor> _first = new(StringComparer.Ordinal), _start = new(StringComparer.Ordinal);
        private readonly Dictionary<string, Tensor> _gradients = [];
        private DeadNeuronWatch? _watch;

        public Run(Ap options, SparseTrainingContext context)
        {
            (_options, _context) = (options, context);
            _work = new TrainingWork(context.Weights, every: int.MaxValue);
        }

        public string Name => "ap";

        public string Description => $"{_options}";

        public IReadOnlyDictionary<string, Tensor>? Masks => null;

        public double TrainingShare => _work.Share;

        public void BeforeStep(TrainingStep step)
        {
            using var frozen = no_grad();
            if (_first.Count == 0)
            {
                Keep(_first, step.Loop.Trainable);
                Keep(_start, step.Loop.Trainable);
            }

            (int cycle, int from, int until) = Place(step.Index);
            TrainingOptions options = step.Loop.Options;
            step.LearningRate = LearningRateSchedule.At(options with { Steps = until - from, WarmupSteps = null }, step.Index - from);
            if (step.Index == until - 1 && cycle < _options.Cycles && _context.Net is { } net && HasRelu(net))
            {
                _watch = new DeadNeuronWatch(net);
            }
        }

        public void AfterBackward(TrainingStep step)
        {
            if (_options.Pruner is ApPruner.Gradient && IsLast(step.Index))
            {
                foreach (NetWeight weight in _context.Weights)
                {
                    using Tensor? gradient = weight.Value.grad;
                    _gradients[weight.Name] = (gradient?.clone() ?? zeros_like(weight.Value, requires_grad: false)).DetachFromDisposeScope();
                }
            }
        }

        public void AfterStep(TrainingStep step)
        {
            _work.Step();
            if (!IsLast(step.Index))
            {
                return;
            }

            Prune(step);
            Clear(_gradients);
            if (_options.Rewind)
            {
                foreach ((string name, Parameter value) in step.Loop.Trainable)
                {
                    value.copy_(_first[name]);
                    step.Loop.Optimizer.Forget(name, ones_like(value, ScalarType.Bool, requires_grad: false));
                    if (step.Loop.KeepMask(name) is { } keep)
                    {
                        value.masked_fill_(keep.logical_not(), 0);
                    }
                }
            }

            Keep(_start, step.Loop.Trainable);
            _work.Count();
        }

        public IReadOnlyList<(string Name, Tensor Value)> SaveState() =>
            [_work.Save(), .. _first.Select(f => ($"first {f.Key}", f.Value)), .. _start.Select(f => ($"start {f.Key}", f.Value))];

        public void LoadState(IReadOnlyDictionary<string, Tensor> state)
        {
            _work.Load(state);
            foreach ((string name, Tensor value) in state)
            {
                if (name.Split(' ', 2) is ["first" or "start", string parameter])
                {
                    Put(name[0] == 'f' ? _first : _start, parameter, value);
                }
            }
        }

        // Nothing is held outside the weights.
        public void Finish()
        {
        }

        public void Dispose()
        {
            _watch?.Dispose();
            Clear(_gradients);
            Clear(_first);
            Clear(_start);
        }

        private static bool HasRelu(Models.Vision.VisionModel net) => net.Layers.Any(l => l is Models.Vision.PlainLayer { Kind: Models.Vision.PlainKind.Relu });

        private bool IsLast(long step) => Place(step) is var (cycle, _, until) && step == until - 1 && cycle < _options.Cycles;

        private (int Cycle, int From, int Until) Place(long step)
        {
            int cycle = Enumerable.Range(0, _options.Cycles + 1).Last(c => _options.Start(c, _context.Steps) <= step);
            return (cycle, _options.Start(cycle, _context.Steps), _options.Start(cycle + 1, _context.Steps));
        }

        private void Prune(TrainingStep step)
        {
            Tensor[] weights = [.. _context.Weights.Select(w => w.Value.detach())];
            Tensor[] before = [.. _context.Weights.Select(w => step.Loop.KeepMask(w.Name) ?? ones_like(w.Value, ScalarType.Bool, requires_grad: false))];
            Tensor[] scores = [.. _context.Weights.Zip(weights, (w, v) => _options.Pruner is ApPruner.Magnitude ? v.abs() : (v * _gradients[w.Name]).abs())];
            (IReadOnlyList<Tensor> keep, _, long count) = PercentilePrune(scores, before, _options.Percent - _options.Rate, _options.Rate);
            if (_options.Rate > 0)
            {
                using Generator generator = _context.Seed.Generator($"ap {step.Index}");
                bool negative = _options.Choice is not ApChoice.PositiveStill;
                Tensor[] candidates = [.. weights.Zip(keep, (w, k) => (negative ? w.lt(0) : w.gt(0)).logical_and(k))];
                Tensor[] moved = [.. _context.Weights.Zip(weights, (w, v) => _options.Choice is ApChoice.NegativeRandom ? rand(v.shape, generator: generator).to(v.device) : (v - _start[w.Name]).abs())];
                keep = TakeSmallest(moved, candidates, keep, count).Keep;
            }

            foreach ((NetWeight weight, Tensor mask) in _context.Weights.Zip(keep))
            {
                step.Loop.SetKeepMask(weight.Name, mask);
            }

            Tell(step, before, weights);
        }

        private void Tell(TrainingStep step, Tensor[] left, Tensor[] weights)
        {
            int cycle = Place(step.Index).Cycle;
            long kept = left.Sum(k => k.sum().item<long>()), below = weights.Zip(left, (w, k) => w.lt(0).logical_and(k).sum().item<long>()).Sum();
            string dead = _watch is { } watch ? FormattableString.Invariant($", {watch.Rates[^1].Dynamic:0.0} % of ReLU outputs dead and {watch.Rates[^1].Static:0.0} % cut off") : "";
            _context.Progress.Say(FormattableString.Invariant($"cycle {cycle}: {100.0 * kept / weights.Sum(w => w.numel()):0.0} % of the weights, {100.0 * below / kept:0.0} % of them negative{dead}"));
            _watch?.Dispose();
            _watch = null;
        }

        private static void Keep(IDictionary<string, Tensor> store, IReadOnlyList<(string Name, Parameter Value)> parameters)
        {
            foreach ((string name, Parameter value) in parameters)
            {
                Put(store, name, value);
            }
        }

        private static void Put(IDictionary<string, Tensor> store, string name, Tensor value)
        {
            using var frozen = no_grad();
            Tensor copy = value.detach().clone().DetachFromDisposeScope();
            if (store.TryGetValue(name, out Tensor? old))
            {
                old.Dispose();
            }

            store[name] = copy;
        }

        private static void Clear(IDictionary<string, Tensor> store)
        {
            foreach (Tensor value in store.Values)
            {
                value.Dispose();
            }

            store.Clear();
        }
    }
}
