using System.Globalization;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>One training with SaRA: the net's own parameters, of which the optimiser sees the selected entries only.</summary>
/// <remarks>The change is in the weights, so merging has nothing to do. A file holds the selected entries of every tensor, θ, and hashes of the base and of the masks.</remarks>
public sealed class SaraRun : IAdaptationRun
{
    private const string ThresholdNote = "sara.threshold", BaseNote = "sara.base", MaskNote = "sara.mask";

    private readonly Sara _method;
    private readonly AdaptationContext _context;
    private readonly (string Name, Parameter Value, Tensor Mask)[] _selected;
    private readonly (string Name, Parameter Value)[] _ranked;
    private readonly string _base;
    private SaraOptimizer? _optimizer;
    private long? _last;

    /// <summary>Selects the entries; with a saved adapter, writes its values into them.</summary>
    /// <param name="method">The options.</param>
    /// <param name="context">The net.</param>
    /// <exception cref="EspalierException">When nothing is below the threshold, or the saved adapter belongs to another base.</exception>
    public SaraRun(Sara method, AdaptationContext context)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        (_method, _context) = (method, context);
        using AdapterFile? file = context.Saved is null ? null : AdapterFile.Open(context.Saved);
        Threshold = file is not null ? double.Parse(file.Notes[ThresholdNote], CultureInfo.InvariantCulture)
            : method.Ratio is { } ratio ? Sara.ThresholdFor(context.Parameters.Select(p => Allowed(p.Name, p.Value) is { } allowed ? p.Value.masked_select(allowed) : p.Value), ratio) : method.Threshold;
        LearningRate = file is null ? method.RateOf(Threshold, context.Options) : context.Options.LearningRate;
        _selected = [.. context.Parameters.Select(p => (p.Name, p.Value, Mask: MaskOf(p.Name, p.Value))).Where(p => p.Mask.any().item<bool>()).Select(p => (p.Name, p.Value, p.Mask.DetachFromDisposeScope()))];
        EspalierException.Require(_selected.Length > 0, FormattableString.Invariant($"No weight is smaller than the threshold {Threshold:G4}, so there is nothing to train; raise it or give a ratio."));
        TrainedParameters = _selected.Sum(p => p.Mask.sum().item<long>());
        _ranked = [.. _selected.Where(p => IsRanked(p.Value)).Select(p => (p.Name, p.Value))];
        _base = TensorDigest.Of(_selected.Select(p => p.Value.masked_select(p.Mask)));
        if (file is not null)
        {
            Load(file);
        }
    }

    /// <summary>θ.</summary>
    public double Threshold { get; }

    /// <summary>The peak learning rate.</summary>
    public double LearningRate { get; }

    /// <inheritdoc/>
    public string Name => "sara";

    /// <inheritdoc/>
    public string Description => $"sara {OptionsBinder.Words(_method).ToJsonString()}";

    /// <inheritdoc/>
    public long TrainedParameters { get; }

    /// <summary>How many entries were trained at the end: fewer after the progressive adjustment.</summary>
    public long TrainedAtTheEnd => _last ?? TrainedParameters;

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Parameter Value)> Trainable => [.. _selected.Select(p => (p.Name, p.Value))];

    /// <inheritdoc/>
    public Func<IReadOnlyList<OptimizedParameter>, IOptimizer>? Optimizer => parameters => _optimizer = new SaraOptimizer(
        parameters, _selected.ToDictionary(p => p.Name, p => p.Mask), _context.Options.Beta1, _context.Options.Beta2, _context.Options.Epsilon, _method.WeightDecay);

    /// <inheritdoc/>
    public Func<long, double>? Schedule => step => LearningRateSchedule.At(_context.Options with { LearningRate = LearningRate }, step);

    /// <inheritdoc/>
    public void BeforeStep(TrainingStep step)
    {
        if (step.Index == (_method.ProgressiveStep ?? _context.Options.Steps / 2))
        {
            _optimizer!.Shrink(Threshold);
        }
    }

    /// <inheritdoc/>
    /// <remarks>Entries that are not trained have no gradient, so that clipping and logs see what is trained; the rank loss of one matrix, drawn anew each step, is added.</remarks>
    public void AfterBackward(TrainingStep step)
    {
        foreach ((string name, Parameter value, _) in _selected)
        {
            value.grad?.mul_(_optimizer!.MaskOf(name));
        }

        if (_method.LambdaRank == 0 || _ranked.Length == 0)
        {
            return;
        }

        (string drawn, Parameter weight) = _ranked[_context.Seed.Random($"rank loss of step {step.Index}").Next(_ranked.Length)];
        Tensor mask = _optimizer!.MaskOf(drawn);
        if (mask.sum().item<long>() > Sara.FewestForRank && weight.grad is { } gradient)
        {
            (_, Tensor nuclear) = Sara.NuclearNorm(weight.detach().flatten(1), mask.flatten(1), _method.LambdaRank);
            gradient.add_(nuclear.view(weight.shape));
        }
    }

    /// <inheritdoc/>
    public void Finish() => _last = _optimizer?.Selected;

    /// <inheritdoc/>
    public void Save(string folder)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        AdapterFile.Save(folder, _method, [.. _selected.Select(p => (p.Name, p.Value.masked_select(p.Mask)))], new Dictionary<string, string>
        {
            [ThresholdNote] = Threshold.ToString("R", CultureInfo.InvariantCulture),
            [BaseNote] = _base,
            [MaskNote] = TensorDigest.Of(_selected.Select(p => p.Mask)),
        });
    }

    /// <inheritdoc/>
    public void Merge()
    {
    }

    /// <inheritdoc/>
    public void Unmerge()
    {
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((_, _, Tensor mask) in _selected)
        {
            mask.Dispose();
        }
    }

    private void Load(AdapterFile file)
    {
        EspalierException.Require(file.Notes.GetValueOrDefault(BaseNote) == _base && file.Notes.GetValueOrDefault(MaskNote) == TensorDigest.Of(_selected.Select(p => p.Mask)),
            $"The adapter in {_context.Saved} was trained on other weights: those below its threshold are not the same here; use the checkpoint that it was made from.");
        foreach ((string name, Parameter value, Tensor mask) in _selected)
        {
            value.masked_scatter_(mask, file.Read(name).to(value.dtype));
        }
    }

    private Tensor MaskOf(string name, Parameter value)
    {
        Tensor mask = Sara.Select(value, Threshold);
        return Allowed(name, value) is { } allowed ? mask.logical_and_(allowed) : mask;
    }

    // Entries of a pruned weight that its mask keeps, or those that are not 0; null where all may be trained.
    private Tensor? Allowed(string name, Parameter value)
    {
        NetWeight? pruned = _context.Masks.ContainsKey(name) ? _context.Weights.FirstOrDefault(w => w.Name == name) : null;
        return pruned is not null ? pruned.InStoredLayout(_context.Keep(pruned)!) : _method.ExcludeZeros ? value.ne(0) : null;
    }

    private bool IsRanked(Parameter value)
    {
        bool matrix = value.dim() == 2 || (value.dim() > 2 && _method.RankOfConvolutions);
        return matrix && Math.Min(value.shape[0], value.numel() / value.shape[0]) > _method.RankAboveSide;
    }
}
