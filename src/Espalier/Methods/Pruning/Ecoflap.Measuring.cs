using Espalier.Pruning.Measuring;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What the scores of <see cref="Ecoflap"/> are made of.</summary>
public enum EcoflapOrder
{
    /// <summary>Differences of the loss along random directions: forward passes only.</summary>
    Zeroth,

    /// <summary>Gradients of the loss: one backward pass.</summary>
    First,
}

// Stage 1 inside a plan: the same scores, with one block of the model in memory at a time.
public sealed partial class Ecoflap
{
    /// <summary>What scores are made of; zeroth order by default.</summary>
    public EcoflapOrder Order { get; init; } = EcoflapOrder.Zeroth;

    /// <summary>What counts; the (projected) gradient alone by default (MEZO-GradOnly).</summary>
    public EcoflapScore Score { get; init; } = EcoflapScore.GradOnly;

    /// <summary>Calibration sequences that stage 1 looks at; the paper's 32, or all where there are fewer.</summary>
    public int Samples
    {
        get;
        init => field = Positive(value, "samples");
    } = 32;

    /// <summary>Sequences per loss; the published scripts' 8.</summary>
    public int Batch
    {
        get;
        init => field = Positive(value, "batch");
    } = 8;

    /// <summary>ε, the step along a direction; 1e-3 as published. Zeroth order only.</summary>
    public double Epsilon
    {
        get;
        init
        {
            EspalierException.Require(value > 0 && double.IsFinite(value), FormattableString.Invariant($"ecoflap.epsilon is {value}; it is a step, above 0 (the paper takes 1e-3)."));
            field = value;
        }
    } = 1e-3;

    /// <summary>Directions per batch; 1 as published. More draws steady the ranks. Zeroth order only.</summary>
    public int Draws
    {
        get;
        init => field = Positive(value, "draws");
    } = 1;

    /// <inheritdoc/>
    public bool IsMeasured => _scores is not null;

    /// <inheritdoc/>
    public void Measure(MeasuringContext context)
    {
        int sequences = Math.Min(Samples, context.Calibration.Length);
        if (Order is EcoflapOrder.First)
        {
            MeasureFirstOrder(context, sequences);
        }
        else
        {
            MeasureZerothOrder(context, sequences);
        }
    }

    /// <inheritdoc/>
    public object With(Measurements results) => WithScores(name => results.Number(name));

    /// <inheritdoc/>
    public double Passes(int layers, int sequences) =>
        Order is EcoflapOrder.First ? 3.0 * Math.Min(Samples, sequences) : 2.0 * layers * Draws * Math.Min(Samples, sequences) / 2;

    private void MeasureFirstOrder(MeasuringContext context, int sequences)
    {
        var sums = new Dictionary<string, FirstOrderSum>(StringComparer.Ordinal);
        try
        {
            new GradientPass(context, Batch, sequences).Run(
                block => !context.Results.Has($"block-{block}"),
                block => block.Linears.ToList().ForEach(l => sums[l.Name] = new FirstOrderSum(l.Linear.Matrix, Score)),
                (linear, gradient, _) => sums[linear.Name].Add(gradient),
                block =>
                {
                    using var scope = NewDisposeScope();
                    context.Results.Save($"block-{block.Index}", block.Linears.Select(l => (l.Name, sums[l.Name].Importance().sum(ScalarType.Float64))));
                    Release();
                });
        }
        finally
        {
            Release();
        }

        void Release()
        {
            foreach (FirstOrderSum sum in sums.Values)
            {
                sum.Dispose();
            }

            sums.Clear();
        }
    }

    private void MeasureZerothOrder(MeasuringContext context, int sequences)
    {
        int batches = (sequences + Batch - 1) / Batch;
        var losses = new Dictionary<string, double[]>(StringComparer.Ordinal);      // [batch, draw, side] of each weight
        var importance = new Dictionary<string, Func<double, double>>(StringComparer.Ordinal);
        new OutputProbe(context, sequences).Run(CalibrationNeeds.None, block => !context.Results.Has($"block-{block}"), Moves, Seen, block =>
        {
            using var scope = NewDisposeScope();
            context.Results.Save($"block-{block}", losses.Select(l => (l.Key, tensor(importance[l.Key](ProjectedGradient(l.Key, l.Value))))));
            losses.Clear();
            importance.Clear();
        });

        IEnumerable<WeightChange> Moves(LayerContext layer)
        {
            losses[layer.Name] = new double[batches * Draws * 2];
            // The sums over the weight are taken now; the weight is gone when the losses are known.
            double perUnit = ZerothOrderImportance(layer.Weight, 1, Score);
            importance[layer.Name] = g => Score is EcoflapScore.GradMagSquare ? perUnit * g * g : perUnit * g;
            for (int i = 0; i < losses[layer.Name].Length; i++)
            {
                int b = i / 2 / Draws, draw = i / 2 % Draws;
                double step = i % 2 == 0 ? Epsilon : -Epsilon;
                yield return new WeightChange(layer.Name, i, b * Batch, Math.Min(Batch, sequences - (b * Batch)),
                    weight => weight + (Direction(weight, context.Seed, layer.Name, b, draw).to(weight.device) * step));
            }
        }

        void Seen(WeightChange change, int sequence, Tensor logits, Tensor dense)
        {
            using var scope = NewDisposeScope();
            Tensor next = context.Ids(sequence, 1)[0].narrow(0, 1, logits.shape[0] - 1);
            Tensor loss = nn.functional.cross_entropy(logits.narrow(0, 0, logits.shape[0] - 1).to(ScalarType.Float64), next);
            losses[change.Weight][change.Number] += loss.item<double>() / change.Count;
        }
    }

    private double ProjectedGradient(string name, double[] losses)
    {
        double sum = 0;
        for (int i = 0; i < losses.Length; i += 2)
        {
            double gradient = Math.Abs(losses[i] - losses[i + 1]) / (2 * Epsilon);
            EspalierException.Require(double.IsFinite(gradient), $"The loss is not finite when {name} moves by {Epsilon}; take a smaller step, or check the model and the calibration text.");
            sum += gradient;
        }

        return sum;
    }

    private static int Positive(int value, string option)
    {
        EspalierException.Require(value >= 1, $"ecoflap.{option} is {value}; it must be 1 or more.");
        return value;
    }

    /// <summary>Elementwise first-order importance from gradients that arrive one at a time; holds one float per weight.</summary>
    private sealed class FirstOrderSum(Tensor weight, EcoflapScore kind) : IDisposable
    {
        private readonly Tensor _total = zeros(weight.shape, ScalarType.Float32, weight.device).DetachFromDisposeScope();
        private int _count;

        public void Add(Tensor gradient)
        {
            EspalierException.Require(gradient.shape.AsSpan().SequenceEqual(_total.shape), $"A gradient is [{string.Join(", ", gradient.shape)}], its weight [{string.Join(", ", _total.shape)}]; they must belong together.");
            using var scope = NewDisposeScope();
            using var _ = no_grad();
            Tensor g = gradient.detach().to(ScalarType.Float32);
            _total.add_(kind is EcoflapScore.GradMagSquare ? g.square() : g.abs());
            _count++;
        }

        public Tensor Importance()
        {
            EspalierException.Require(_count > 0, "No gradient was given; first-order scores need at least one batch.");
            using var scope = NewDisposeScope();
            using var _ = no_grad();
            Tensor mean = _total / _count, W = weight.detach().to(ScalarType.Float32);
            Tensor importance = kind switch
            {
                EcoflapScore.GradMagAbs => W.abs() * mean,
                EcoflapScore.GradMagSquare => W.square() * mean,
                _ => mean,
            };
            return importance.MoveToOuterDisposeScope();
        }

        public void Dispose() => _total.Dispose();
    }
}
