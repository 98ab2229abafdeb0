using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Tests.Training;

public sealed class TrainingOptionsTests
{
    public static TheoryData<Func<TrainingOptions>, string> Bad => new()
    {
        { () => new TrainingOptions { Steps = 0 }, "number of steps cannot be 0" },
        { () => new TrainingOptions { LearningRate = double.NaN }, "learning rate cannot be NaN" },
        { () => new TrainingOptions { Optimizer = "adam" }, "adamw, sgd or mfac" },
        { () => new TrainingOptions { Beta1 = 1 }, "beta1" },
        { () => new TrainingOptions { Beta2 = -0.1 }, "beta2 cannot be -0.1" },
        { () => new TrainingOptions { Epsilon = 0 }, "Epsilon" },
        { () => new TrainingOptions { WeightDecay = -1 }, "weight decay" },
        { () => new TrainingOptions { Momentum = 1 }, "momentum" },
        { () => new TrainingOptions { Schedule = "step" }, "constant, linear, cosine or multistep" },
        { () => new TrainingOptions { WarmupFraction = 1.5 }, "warm-up fraction" },
        { () => new TrainingOptions { WarmupSteps = -1 }, "warm-up steps" },
        { () => new TrainingOptions { ClipNorm = 0 }, "clipped" },
        { () => new TrainingOptions { Accumulation = 0 }, "micro-batches" },
        { () => new TrainingOptions { SaveEvery = -1 }, "saved states" },
        { () => new TrainingOptions { LogEvery = 0 }, "log lines" },
        { () => new TrainingOptions { StopLossFactor = 1 }, "stops the run" },
        { () => new TrainingOptions { Steps = 5, WarmupSteps = 6 }.Validate(), "does not fit into 5 steps" },
        { () => new TrainingOptions { Momentum = 0.9 }.Validate(), "adamw has none" },
    };

    [Theory(DisableDiscoveryEnumeration = true)]
    [MemberData(nameof(Bad))]
    public void A_value_that_cannot_be_is_refused_in_a_sentence(Func<TrainingOptions> make, string part)
    {
        string message = Should.Throw<EspalierException>(make).Message;
        message.ShouldContain(part);
        message.ShouldEndWith(".");
    }

    [Fact]
    public void Defaults_are_valid() => new TrainingOptions().Validate().Optimizer.ShouldBe("adamw");
}
