using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Issp
{
    /// <summary>One training: shrinks after every step, cuts at the end of the stage, and leaves the zeros to the loop from there.</summary>
    private sealed class Run : ISparseTrainingRun
    {
        private readonly Issp _method;
        private readonly SparseTrainingContext _context;
        private readonly NetWeight[] _weights;
        private readonly (int Pruned, int M)? _groups;
        private readonly TrainingWork _work;
        private readonly int _stage;

        public Run(Issp method, SparseTrainingContext context)
        {
            (_method, _context, _stage, _groups) = (method, context, method.StageSteps(context.Steps), method.Groups(context.Weights));
            _weights = [.. context.Weights.Where(method.Prunes)];
            _work = new TrainingWork(context.Weights, every: int.MaxValue);
            if (_groups is var (n, m))
            {
                context.Progress.Say($"{n} of every {m} weights are pruned.");
            }
        }

        public string Name => "issp";

        public string Description => $"{_method with { Skip = [] }} of {string.Join(' ', _weights.Select(w => w.Name))}";

        public IReadOnlyDictionary<string, Tensor>? Masks => null;

        public double TrainingShare => _work.Share;

        public void AfterStep(TrainingStep step)
        {
            _work.Step();
            if (step.Index >= _stage)
            {
                return;
            }

            bool last = step.Index == _stage - 1;
            foreach (NetWeight weight in _weights)
            {
                using var scope = NewDisposeScope();
                if (last)
                {
                    step.Loop.SetKeepMask(weight.Name, Choose(weight, step.Index));
                }
                else if (_method.Ratio < 1)
                {
                    Shrink(weight.Value, Choose(weight, step.Index), _method.Ratio);
                }
            }

            if (last)
            {
                _work.Count();
            }
        }

        public IReadOnlyList<(string Name, Tensor Value)> SaveState() => [_work.Save()];

        public void LoadState(IReadOnlyDictionary<string, Tensor> state) => _work.Load(state);

        // Nothing is held outside the weights.
        public void Finish()
        {
        }

        public void Dispose()
        {
        }

        private Tensor Choose(NetWeight weight, long step)
        {
            if (_groups is var (pruned, m))
            {
                return SelectGroups(weight.Value, pruned, m, weight.Name);
            }

            if (_method.Sample is not { } size || weight.Value.numel() < size)
            {
                return Select(weight.Value, _method.Sparsity, weight.Name);
            }

            using Generator generator = _context.Seed.Generator($"issp {weight.Name} {step}");
            using Tensor sample = randperm(weight.Value.numel(), ScalarType.Int64, generator: generator).narrow(0, 0, size).to(weight.Value.device);
            return ThresholdSelect(weight.Value, _method.Sparsity, sample).Keep;
        }
    }
}
