using System.Diagnostics;
using System.Globalization;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>
/// The one training loop. Methods are given to it as parts: the parameters to train, the objective, an optimiser, keep masks,
/// hooks. It saves and resumes to the byte, logs, shows progress, stops when a run goes wrong and leaves no native tensor behind.
/// </summary>
/// <remarks>
/// One step: hooks' <c>BeforeStep</c>; gradients to null; per micro-batch loss and backward; hooks' <c>AfterBackward</c>; masks on
/// gradients; norm and clipping; the optimiser; masks on weights; hooks' <c>AfterStep</c>. A loop runs once; it does not freeze
/// other parameters and does not switch between training and evaluation mode.
/// </remarks>
public sealed class TrainingLoop : IDisposable
{
    private readonly ITrainingObjective _objective;
    private readonly List<double> _losses = [];
    private readonly Stopwatch _clock = new();
    private readonly LossWatch _watch;
    private LastGoodWeights? _lastGood;
    private KeepMasks? _masks;
    private IOptimizer? _optimizer;
    private TrainingState? _state;
    private double _secondsBefore;
    private long? _savedStep;

    /// <summary>Makes a loop; its parts are given as properties, and nothing is allocated before it runs.</summary>
    /// <param name="options">Length, learning rate, bookkeeping.</param>
    /// <param name="trainable">The parameters to train, with unique names; each must require a gradient.</param>
    /// <param name="objective">The loss.</param>
    /// <exception cref="EspalierException">When there is nothing to train, a name comes twice, a parameter is frozen, or options contradict each other.</exception>
    public TrainingLoop(TrainingOptions options, IReadOnlyList<(string Name, Parameter Value)> trainable, ITrainingObjective objective)
    {
        EspalierException.Require(trainable.Count > 0, "There is nothing to train: no parameter was selected; choose other subsets of the parameters.");
        string? twice = trainable.GroupBy(t => t.Name).FirstOrDefault(g => g.Count() > 1)?.Key;
        EspalierException.Require(twice is null, $"The parameter {twice} was given to the training twice.");
        string? frozen = trainable.FirstOrDefault(t => !t.Value.requires_grad).Name;
        EspalierException.Require(frozen is null, $"The parameter {frozen} is frozen; set its requires_grad before training it.");
        Options = options.Validate();
        Trainable = trainable;
        _objective = objective;
        _watch = new LossWatch(options.StopLossFactor, options.Warmup);
    }

    /// <summary>Makes a loop whose objective is a function of (step, micro-batch).</summary>
    /// <inheritdoc cref="TrainingLoop(TrainingOptions, IReadOnlyList{ValueTuple{string, Parameter}}, ITrainingObjective)"/>
    public TrainingLoop(TrainingOptions options, IReadOnlyList<(string Name, Parameter Value)> trainable, Func<long, int, Tensor> objective)
        : this(options, trainable, new TrainingObjective(objective))
    {
    }

    /// <summary>The options.</summary>
    public TrainingOptions Options { get; }

    /// <summary>The parameters that are trained.</summary>
    public IReadOnlyList<(string Name, Parameter Value)> Trainable { get; }

    /// <summary>What methods add, in the order in which they act.</summary>
    public IReadOnlyList<ITrainingHook> Hooks { get; init; } = [];

    /// <summary>For some trainable names, which weights stay (true or 1) and which remain exactly zero; shaped like the parameter.</summary>
    public IReadOnlyDictionary<string, Tensor>? Masks { get; init; }

    /// <summary>Tensors that the forward pass itself changes, by unique names: running statistics of batch norms. They are saved, resumed and put back like weights.</summary>
    public IReadOnlyList<(string Name, Tensor Value)> Buffers { get; init; } = [];

    /// <summary>The learning-rate and decay multipliers of a parameter, by name; null gives every one 1.</summary>
    public Func<string, ParameterGroup>? Groups { get; init; }

    /// <summary>Makes another optimiser than the options name; the loop disposes it.</summary>
    public Func<IReadOnlyList<OptimizedParameter>, IOptimizer>? OptimizerFactory { get; init; }

    /// <summary>Gives the learning rate of a step in place of the options' schedule.</summary>
    public Func<long, double>? Schedule { get; init; }

    /// <summary>Where <c>state.safetensors</c> is kept; null saves nothing.</summary>
    public string? StateFolder { get; init; }

    /// <summary>Where <c>training.jsonl</c> and TensorBoard event files go; null logs nothing.</summary>
    public string? LogFolder { get; init; }

    /// <summary>What else decides the result (data set, seed, objective), in words; compared when a run is resumed.</summary>
    public string Identity { get; init; } = "";

    /// <summary>Steps between two copies in memory of the last sound weights, to go back to on failure; 0 keeps none. Default 10.</summary>
    public int KeepGoodEvery { get; init; } = 10;

    /// <summary>Where the loop says how far it is.</summary>
    public IProgressSink Progress { get; init; } = SilentProgress.Instance;

    /// <summary>The optimiser, once the loop runs.</summary>
    public IOptimizer Optimizer => _optimizer ?? throw new InvalidOperationException("The loop makes its optimizer when it starts to run.");

    private double Seconds => _secondsBefore + _clock.Elapsed.TotalSeconds;

    /// <summary>Whether a folder holds the state of a run.</summary>
    public static bool HasState(string folder) => File.Exists(Path.Combine(folder, TrainingState.FileName));

    /// <summary>The keep mask of a parameter [as the parameter], as a new bool tensor; null where it has none. While the loop runs.</summary>
    public Tensor? KeepMask(string name) => Started.Keep(name);

    /// <summary>Gives a parameter another mask (dynamic sparsity, from a hook). What it prunes is zeroed at once, in the weights and in the optimiser's state. While the loop runs.</summary>
    /// <exception cref="EspalierException">When the name is not trained or the shape differs.</exception>
    public void SetKeepMask(string name, Tensor keep)
    {
        using var scope = NewDisposeScope();
        Started.Set(name, keep);
        Started.ApplyToWeights(name);
        Optimizer.Forget(name, keep.to(ScalarType.Bool).logical_not());
    }

    /// <summary>Trains from the first step.</summary>
    /// <param name="cancellation">Stops between two steps; the state is saved first, where there is a folder for it.</param>
    /// <returns>The losses and times.</returns>
    /// <exception cref="EspalierException">When a loss, gradient or weight is not finite, the loss explodes, or a pruned weight revives: trainable weights are then back at the last sound copy.</exception>
    /// <exception cref="OperationCanceledException">When cancelled.</exception>
    public TrainingResult Run(CancellationToken cancellation = default)
    {
        Prepare();
        return Train(stopped: false, cancellation);
    }

    /// <summary>Goes on from the state in <see cref="StateFolder"/> and ends with the same bytes as a run that was never interrupted.</summary>
    /// <inheritdoc cref="Run"/>
    /// <exception cref="EspalierException">Also when there is no state, or it belongs to a run with other options, parameters, masks or parts.</exception>
    public TrainingResult Resume(CancellationToken cancellation = default)
    {
        Prepare();
        EspalierException.Require(_state is not null, "A training can only be resumed from a state folder, and none was given.");
        TrainingPosition position = _state.Load();
        _losses.AddRange(position.Losses);
        (_secondsBefore, _savedStep) = (position.Seconds, _losses.Count);
        Progress.Say($"Resuming the training at step {_losses.Count} of {Options.Steps}.");
        return Train(position.Stopped, cancellation);
    }

    /// <summary>Releases the optimiser's state, masks and copies.</summary>
    public void Dispose()
    {
        _optimizer?.Dispose();
        _masks?.Dispose();
        _lastGood?.Dispose();
    }

    private LastGoodWeights LastGood => _lastGood ??= new LastGoodWeights([.. Trainable.Select(t => (Tensor)t.Value), .. Buffers.Select(b => b.Value)]);

    private KeepMasks Started => _masks ?? throw new InvalidOperationException("The loop holds masks only while it runs.");

    private void Prepare()
    {
        if (_optimizer is not null)
        {
            throw new InvalidOperationException("A training loop runs once; make another one.");
        }

        string? twice = Hooks.GroupBy(h => h.Name).FirstOrDefault(g => g.Count() > 1)?.Key;
        EspalierException.Require(twice is null, $"Two training hooks have the name {twice}; their states could not be told apart.");
        _masks = new KeepMasks(Trainable, Masks);
        OptimizedParameter[] parameters = [.. Trainable.Select(t => new OptimizedParameter(t.Name, t.Value, Groups?.Invoke(t.Name) ?? new ParameterGroup()))];
        _optimizer = OptimizerFactory?.Invoke(parameters) ?? Options.Optimizer switch
        {
            "sgd" => new Sgd(parameters, Options.Momentum, Options.WeightDecay, Options.Nesterov, Options.StateStorage),
            "mfac" => new MfacOptimizer(parameters, Options.FisherGradients, Options.Damping, Options.Momentum, Options.WeightDecay),
            _ => new AdamW(parameters, Options.Beta1, Options.Beta2, Options.Epsilon, Options.WeightDecay, Options.StateStorage),
        };
        if (StateFolder is not null)
        {
            var fingerprint = new TrainingFingerprint(Options, _optimizer.Description, parameters, _masks, Hooks, Identity);
            _state = new TrainingState(StateFolder, fingerprint, Trainable, Buffers, _optimizer, _masks, Hooks);
        }
    }

    private TrainingResult Train(bool stopped, CancellationToken cancellation)
    {
        using TrainingLog? log = LogFolder is null ? null : new TrainingLog(LogFolder, _losses.Count);
        using IProgressTask task = Progress.Begin("training", Options.Steps, "step");
        task.Advance(_losses.Count);
        var throughput = new Throughput(_objective, _clock);
        _clock.Start();
        while (_losses.Count < Options.Steps && !stopped)
        {
            if (cancellation.IsCancellationRequested)
            {
                CheckWeights();
                Save(stopped: false);
                Progress.Say(_savedStep is null ? $"The training was cancelled at step {_losses.Count}." : $"The training was cancelled at step {_losses.Count}; its state is in {StateFolder}, from where it can be resumed.");
                cancellation.ThrowIfCancellationRequested();
            }

            TrainingStep step = Step(_losses.Count);
            _losses.Add(step.Loss);
            stopped = step.StopRequested;
            task.Advance();
            bool last = stopped || _losses.Count == Options.Steps;
            if (step.Index % Options.LogEvery == 0 || last)
            {
                var line = new TrainingLogLine(step.Index, step.Loss, step.LearningRate, step.GradientNorm, throughput.TokensPerSecond(), Seconds);
                log?.Write(line);
                Show(task, line);
            }

            if (last || (Options.SaveEvery > 0 && _losses.Count % Options.SaveEvery == 0))
            {
                CheckWeights();
                Save(stopped);
            }
        }

        Gradients.Clear(Trainable);
        _clock.Stop();
        return new TrainingResult([.. _losses], Seconds, stopped && _losses.Count < Options.Steps);
    }

    private TrainingStep Step(long index)
    {
        var step = new TrainingStep(this, index, Schedule?.Invoke(index) ?? LearningRateSchedule.At(Options, index));
        foreach (ITrainingHook hook in Hooks)
        {
            using var scope = NewDisposeScope();
            hook.BeforeStep(step);
        }

        Gradients.Clear(Trainable);
        step.Loss = Backward(index);
        ForEachHook(hook => hook.AfterBackward(step));
        Started.ApplyToGradients();
        double? norm = Gradients.Norm(Trainable);
        EspalierException.Require(norm is not null, "No trainable parameter got a gradient: the loss does not depend on any of them; check what is trained.");
        FailWhen(index, LossWatch.Judge(norm.Value));
        step.GradientNorm = norm.Value;
        if (Options.ClipNorm is { } limit)
        {
            Gradients.Clip(Trainable, norm.Value, limit);
        }

        if (KeepGoodEvery > 0 && (index % KeepGoodEvery == 0 || LastGood.Step is null))
        {
            LastGood.Keep(index);
        }

        Optimizer.DecayMultiplier = step.DecayMultiplier;
        Optimizer.Step(step.LearningRate);
        Started.ApplyToWeights();
        if (Hooks.Count > 0)
        {
            ForEachHook(hook => hook.AfterStep(step));
            RequireZeros(index);
        }

        return step;
    }

    /// <summary>Forward and backward of every micro-batch; the mean loss, found sound.</summary>
    private double Backward(long index)
    {
        double sum = 0;
        for (int micro = 0; micro < Options.Accumulation; micro++)
        {
            using var scope = NewDisposeScope();
            Tensor loss = _objective.Loss(index, micro);
            EspalierException.Require(loss.numel() == 1, $"The objective gave a loss of shape [{string.Join(", ", loss.shape)}]; it must be one number.");
            EspalierException.Require(loss.requires_grad, "The loss does not depend on any trainable parameter; check what is trained.");
            sum += loss.detach().to(ScalarType.Float64).item<double>();
            FailWhen(index, double.IsFinite(sum) ? null : _watch.Judge(sum, _losses));
            (Options.Accumulation == 1 ? loss : loss / Options.Accumulation).backward();
        }

        double mean = sum / Options.Accumulation;
        FailWhen(index, _watch.Judge(mean, _losses));
        return mean;
    }

    private void ForEachHook(Action<ITrainingHook> act)
    {
        using var frozen = no_grad();
        foreach (ITrainingHook hook in Hooks)
        {
            using var scope = NewDisposeScope();
            act(hook);
        }
    }

    private void Show(IProgressTask task, TrainingLogLine line)
    {
        task.Describe(string.Create(CultureInfo.InvariantCulture, $"loss {line.Loss:G4}, learning rate {line.LearningRate:G3}"));
        Progress.Report("loss", line.Step, line.Loss);
        Progress.Report("learning rate", line.Step, line.LearningRate);
        Progress.Report("gradient norm", line.Step, line.GradientNorm);
    }

    /// <summary>The weights after the latest step, which no loss has looked at yet.</summary>
    private void CheckWeights()
    {
        using var frozen = no_grad();
        foreach ((string name, Parameter value) in Trainable)
        {
            using var scope = NewDisposeScope();
            FailWhen(_losses.Count - 1, value.isfinite().all().item<bool>() ? null : $"The weights of {name} became infinite or NaN");
        }

        RequireZeros(_losses.Count - 1);
    }

    private void RequireZeros(long step)
    {
        try
        {
            Started.RequireZeros(step);
        }
        catch (EspalierException)
        {
            GoBack();
            throw;
        }
    }

    private void Save(bool stopped)
    {
        if (_state is not null && _savedStep != _losses.Count)
        {
            _state.Save(new TrainingPosition(_losses, Seconds, stopped));
            _savedStep = _losses.Count;
        }
    }

    private void FailWhen(long step, string? fault)
    {
        if (fault is null)
        {
            return;
        }

        GoBack();
        string memory = LastGood.Step is { } kept ? $"the weights are back as they were before step {kept}" : "the weights are as that step found them";
        string disk = _savedStep is { } saved ? $"the last good state on disk is that of step {saved} in {StateFolder}" : "no state is on disk";
        throw new EspalierException($"{fault} at step {step} of {Options.Steps}; {memory}, and {disk}: lower the learning rate, lengthen the warm-up or clip gradients.");
    }

    private void GoBack()
    {
        Gradients.Clear(Trainable);
        LastGood.Restore();
        Started.ApplyToWeights();
    }
}
