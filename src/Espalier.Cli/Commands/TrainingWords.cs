using System.CommandLine;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Cli.Commands;

/// <summary>The words of <see cref="TrainingOptions"/> on the command line, with its defaults.</summary>
internal sealed class TrainingWords
{
    private static readonly TrainingOptions Defaults = new();

    private readonly Option<int> _steps = new("--steps") { Description = "Optimiser steps.", HelpName = "N", DefaultValueFactory = _ => Defaults.Steps };
    private readonly Option<double> _rate = new("--lr") { Description = "The peak learning rate.", HelpName = "rate", DefaultValueFactory = _ => Defaults.LearningRate };
    private readonly Option<string> _schedule = new Option<string>("--schedule") { Description = "The learning rate after the warm-up; multistep divides it by 10 after 50 % and 75 % of the steps.", HelpName = "word", DefaultValueFactory = _ => Defaults.Schedule }.AcceptOnlyFromAmong("constant", "linear", "cosine", "multistep");
    private readonly Option<int> _warmup = new("--warmup") { Description = "Steps that warm the learning rate up.", HelpName = "N", DefaultValueFactory = _ => 0 };
    private readonly Option<string> _optimizer = new("--optimizer") { Description = "The optimiser: adamw, sgd, mfac, a system (`espalier methods optimizer` lists them), or a YAML file with its method and options.", HelpName = "NAME|file", DefaultValueFactory = _ => Defaults.Optimizer };
    private readonly Option<string[]> _optimizerSet = new("--optimizer-set") { Description = "An option of a system that is the optimiser, as NAME=VALUE (`espalier methods NAME` lists them); may be given several times.", HelpName = "NAME=VALUE" };
    private readonly Option<int> _stateBits = new Option<int>("--state-bits") { Description = "Bits of the optimiser's running means: 32, or 8 with a scale per 256 values.", HelpName = "N", DefaultValueFactory = _ => Defaults.StateBits }.AcceptOnlyFromAmong("8", "32");
    private readonly Option<long> _stateBitsFrom = new("--state-bits-from") { Description = "Tensors of state with fewer elements stay in 32 bits.", HelpName = "N", DefaultValueFactory = _ => Defaults.StateBitsFrom };
    private readonly Option<double> _decay = new("--weight-decay") { Description = "Weight decay: decoupled for AdamW, added to the gradient for SGD and M-FAC.", HelpName = "share", DefaultValueFactory = _ => Defaults.WeightDecay };
    private readonly Option<double> _beta1 = new("--beta1") { Description = "AdamW: decay of the mean of gradients.", HelpName = "share", DefaultValueFactory = _ => Defaults.Beta1 };
    private readonly Option<double> _beta2 = new("--beta2") { Description = "AdamW: decay of the mean of squared gradients.", HelpName = "share", DefaultValueFactory = _ => Defaults.Beta2 };
    private readonly Option<double> _momentum = new("--momentum") { Description = "SGD and M-FAC: momentum.", HelpName = "share", DefaultValueFactory = _ => Defaults.Momentum };
    private readonly Option<bool> _nesterov = new("--nesterov") { Description = "SGD: Nesterov's momentum." };
    private readonly Option<int> _fisher = new("--fisher-gradients") { Description = "M-FAC: gradients in its Fisher matrix; memory is so many times the parameters.", HelpName = "N", DefaultValueFactory = _ => Defaults.FisherGradients };
    private readonly Option<double> _damping = new("--damping") { Description = "M-FAC: added to the diagonal of the Fisher matrix.", HelpName = "λ", DefaultValueFactory = _ => Defaults.Damping };
    private readonly Option<double?> _clip = new("--clip") { Description = "Scales gradients with a larger norm down to it.", HelpName = "norm" };
    private readonly Option<int> _accumulate = new("--accumulate") { Description = "Batches whose mean gradient makes one step.", HelpName = "N", DefaultValueFactory = _ => Defaults.Accumulation };
    private readonly Option<int> _saveEvery = new("--save-every") { Description = "Steps between two saved states; 0 saves only when stopped.", HelpName = "N", DefaultValueFactory = _ => Defaults.SaveEvery };

    /// <summary>The options in the order of the help text.</summary>
    public IEnumerable<Option> All =>
        [_steps, _rate, _schedule, _warmup, _optimizer, _optimizerSet, _stateBits, _stateBitsFrom, _decay, _beta1, _beta2, _momentum, _nesterov, _fisher, _damping, _clip, _accumulate, _saveEvery];

    /// <summary>What was said.</summary>
    /// <exception cref="Espalier.Runtime.EspalierException">For values that are not possible.</exception>
    public TrainingOptions Read(ParseResult parsed) => new TrainingOptions
    {
        Steps = parsed.GetValue(_steps),
        LearningRate = parsed.GetValue(_rate),
        Schedule = parsed.GetRequiredValue(_schedule),
        WarmupSteps = parsed.GetValue(_warmup),
        Optimizer = IsPlain(parsed) ? parsed.GetRequiredValue(_optimizer) : Defaults.Optimizer,
        StateBits = parsed.GetValue(_stateBits),
        StateBitsFrom = parsed.GetValue(_stateBitsFrom),
        WeightDecay = parsed.GetValue(_decay),
        Beta1 = parsed.GetValue(_beta1),
        Beta2 = parsed.GetValue(_beta2),
        Momentum = parsed.GetValue(_momentum),
        Nesterov = parsed.GetValue(_nesterov),
        FisherGradients = parsed.GetValue(_fisher),
        Damping = parsed.GetValue(_damping),
        ClipNorm = parsed.GetValue(_clip),
        Accumulation = parsed.GetValue(_accumulate),
        SaveEvery = parsed.GetValue(_saveEvery),
    }.Validate();

    /// <summary>The system of <c>--optimizer</c> with its options; null where it names an optimiser of the loop itself.</summary>
    /// <exception cref="EspalierException">For unknown names and options.</exception>
    public IOptimizerMethod? Optimizer(ParseResult parsed)
    {
        string[] set = parsed.GetValue(_optimizerSet) ?? [];
        if (IsPlain(parsed))
        {
            EspalierException.Require(set.Length == 0, $"--optimizer-set gives options of a system, and {parsed.GetRequiredValue(_optimizer)} has options of its own here (--momentum, --beta1 and so on).");
            return null;
        }

        return PlanWords.Method<IOptimizerMethod>(parsed.GetRequiredValue(_optimizer), set);
    }

    private bool IsPlain(ParseResult parsed) => parsed.GetRequiredValue(_optimizer) is "adamw" or "sgd" or "mfac";
}
