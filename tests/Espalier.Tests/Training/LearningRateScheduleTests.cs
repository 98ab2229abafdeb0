using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Tests.Training;

public sealed class LearningRateScheduleTests
{
    /// <summary>PERP's reference vectors sched_reconstruct_20, sched_retrain_25 (first and last steps) and sched_tiny_7.</summary>
    [Theory]
    [InlineData(20, 5e-4, 2, new[] { 0.0, 0.00025, 0.0005, 0.00047222222, 0.00044444444, 0.00041666667 }, 2.7777778e-05)]
    [InlineData(25, 1e-3, 3, new[] { 0.0, 0.00033333333, 0.00066666666, 0.001, 0.00095454545, 0.00090909090 }, 4.5454544e-05)]
    [InlineData(7, 1e-2, 0, new[] { 0.01, 0.0085714283, 0.0071428571, 0.0057142857, 0.0042857141, 0.0028571428 }, 0.0014285714)]
    public void Linear_with_warmup_is_the_one_of_perp(int steps, double peak, int warmup, double[] first, double last)
    {
        var options = new TrainingOptions { Steps = steps, LearningRate = peak, Schedule = "linear", WarmupSteps = warmup };
        for (int k = 0; k < first.Length; k++)
        {
            LearningRateSchedule.At(options, k).ShouldBe(first[k], 1e-8);
        }

        LearningRateSchedule.At(options, steps - 1).ShouldBe(last, 1e-8);
    }

    [Fact]
    public void Constant_stays_and_cosine_falls_from_peak_through_half_to_zero()
    {
        LearningRateSchedule.At("constant", 99, 100, 10, 0.1).ShouldBe(0.1);
        LearningRateSchedule.At("cosine", 10, 110, 10, 0.1).ShouldBe(0.1);
        LearningRateSchedule.At("cosine", 60, 110, 10, 0.1).ShouldBe(0.05, 1e-12);
        LearningRateSchedule.At("cosine", 110, 110, 10, 0.1).ShouldBe(0, 1e-12);
    }

    [Fact]
    public void A_warmup_fraction_is_rounded_up_and_exact_steps_win()
    {
        new TrainingOptions { Steps = 25, WarmupFraction = 0.1 }.Warmup.ShouldBe(3);
        new TrainingOptions { Steps = 25, WarmupFraction = 0.1, WarmupSteps = 2 }.Warmup.ShouldBe(2);
    }

    [Fact]
    public void Another_schedule_is_refused() =>
        Should.Throw<EspalierException>(() => LearningRateSchedule.At("step", 5, 10, 0, 1)).Message.ShouldContain("constant, linear or cosine");
}
