using Espalier.Runtime;
using Espalier.Training;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Tests.Training;

public sealed class TrainingLoopTests
{
    private static readonly TrainingOptions Short = new() { Steps = 60, LearningRate = 0.05, Schedule = "cosine", WarmupSteps = 3, LogEvery = 20 };

    [Fact]
    public void Loss_falls_and_the_result_tells()
    {
        using var net = new TinyNet();
        using var loop = new TrainingLoop(Short, net.Trainable, net.Loss);
        TrainingResult result = loop.Run();
        result.Steps.ShouldBe(60);
        result.FinalLoss.ShouldBeLessThan(result.Losses[0] / 3);
        result.BestLoss.ShouldBe(result.Losses.Min());
        result.Losses[result.BestStep].ShouldBe(result.BestLoss);
        result.StoppedEarly.ShouldBeFalse();
        Should.Throw<InvalidOperationException>(() => loop.Run());
    }

    [Fact]
    public void Accumulated_microbatches_step_like_their_mean()
    {
        using TinyNet one = new(), two = new();
        var options = new TrainingOptions { Steps = 5, Optimizer = "sgd", LearningRate = 0.1 };
        using var whole = new TrainingLoop(options, one.Trainable, (k, _) => (one.Loss(k, 0) + one.Loss(k, 1)) / 2);
        using var parts = new TrainingLoop(options with { Accumulation = 2 }, two.Trainable, two.Loss);
        whole.Run().FinalLoss.ShouldBe(parts.Run().FinalLoss, 1e-6);
        one.MaxDifference(two).ShouldBeLessThan(1e-6);
    }

    [Fact]
    public void Clipping_bounds_the_step_by_the_global_norm()
    {
        using var scope = NewDisposeScope();
        Parameter a = new(zeros(1)), b = new(zeros(1));
        var options = new TrainingOptions { Steps = 1, Optimizer = "sgd", LearningRate = 1, ClipNorm = 0.5 };
        using var loop = new TrainingLoop(options, [("a", a), ("b", b)], (_, _) => (3 * a + 4 * b).sum());
        loop.Run();
        a.item<float>().ShouldBe(-0.3f, 1e-5f);
        b.item<float>().ShouldBe(-0.4f, 1e-5f);
    }

    [Fact]
    public void Groups_and_a_schedule_from_outside_reach_the_optimizer()
    {
        using var scope = NewDisposeScope();
        Parameter a = new(zeros(1)), b = new(zeros(1));
        var options = new TrainingOptions { Steps = 2, Optimizer = "sgd", LearningRate = 1 };
        using var loop = new TrainingLoop(options, [("a", a), ("b", b)], (_, _) => (a + b).sum())
        {
            Groups = name => new ParameterGroup(name == "b" ? 10 : 1),
            Schedule = step => step + 1,
        };
        loop.Run();
        a.item<float>().ShouldBe(-3f);
        b.item<float>().ShouldBe(-30f);
    }

    [Theory]
    [InlineData("adamw")]
    [InlineData("sgd")]
    public void Masked_zeros_stay_exactly_zero(string optimizer)
    {
        using var net = new TinyNet();
        using Tensor keep = net.PruneFirst();
        using var loop = new TrainingLoop(Short with { Optimizer = optimizer, WeightDecay = 0.1 }, net.Trainable, net.Loss) { Masks = new Dictionary<string, Tensor> { ["w1"] = keep } };
        TrainingResult result = loop.Run();
        using var scope = NewDisposeScope();
        net.W1.masked_select(keep.logical_not()).count_nonzero().item<long>().ShouldBe(0);
        net.W1.masked_select(keep).count_nonzero().item<long>().ShouldBe(keep.sum().item<long>());
        result.FinalLoss.ShouldBeLessThan(result.Losses[0]);
    }

    [Fact]
    public void A_hook_that_revives_a_zero_stops_the_run()
    {
        using var net = new TinyNet();
        using Tensor keep = net.PruneFirst();
        using var loop = new TrainingLoop(Short, net.Trainable, net.Loss)
        {
            Masks = new Dictionary<string, Tensor> { ["w1"] = keep },
            Hooks = [new TestHook { OnAfterStep = step => { if (step.Index == 4) { net.W1.add_(1); } } }],
        };
        Should.Throw<EspalierException>(() => loop.Run()).Message.ShouldContain("At step 4");
        using var scope = NewDisposeScope();
        net.W1.masked_select(keep.logical_not()).count_nonzero().item<long>().ShouldBe(0);
    }

    [Fact]
    public void A_hook_may_move_the_mask()
    {
        using var net = new TinyNet();
        using Tensor keep = net.PruneFirst();
        using Tensor other = keep.logical_not();
        using var loop = new TrainingLoop(Short, net.Trainable, net.Loss)
        {
            Masks = new Dictionary<string, Tensor> { ["w1"] = keep },
            Hooks = [new TestHook { OnBeforeStep = step => { if (step.Index == 30) { step.Loop.SetKeepMask("w1", other); } } }],
        };
        loop.Run();
        using var scope = NewDisposeScope();
        net.W1.masked_select(keep).count_nonzero().item<long>().ShouldBe(0);
        net.W1.masked_select(other).count_nonzero().item<long>().ShouldBe(other.sum().item<long>());
    }

    [Fact]
    public void Hooks_see_gradients_before_the_optimizer_and_can_end_the_run()
    {
        using var net = new TinyNet();
        using Tensor before = net.W1.detach().clone();
        var hook = new TestHook
        {
            OnAfterBackward = step => { using var _ = NewDisposeScope(); net.W1.grad!.zero_(); },
            OnAfterStep = step => { step.GradientNorm.ShouldBeGreaterThan(0); if (step.Index == 6) { step.Stop(); } },
        };
        using var loop = new TrainingLoop(Short, net.Trainable, net.Loss) { Hooks = [hook] };
        TrainingResult result = loop.Run();
        (result.Steps, result.StoppedEarly).ShouldBe((7, true));
        using var scope = NewDisposeScope();
        net.W1.eq(before).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void A_loss_that_is_not_a_number_stops_and_restores_sound_weights()
    {
        using var net = new TinyNet();
        using var scope = NewDisposeScope();
        Tensor? kept = null;
        using var loop = new TrainingLoop(Short, net.Trainable, (k, m) => k == 25 ? net.Loss(k, m) * float.NaN : net.Loss(k, m))
        {
            Hooks = [new TestHook { OnBeforeStep = step => { if (step.Index == 20) { kept = net.W1.detach().clone().MoveToOuterDisposeScope(); } } }],
        };
        string message = Should.Throw<EspalierException>(() => loop.Run()).Message;
        message.ShouldContain("The loss became NaN at step 25 of 60");
        message.ShouldContain("before step 20");
        message.ShouldContain("no state is on disk");
        net.W1.eq(kept!).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void An_infinite_gradient_stops_the_run()
    {
        using var scope = NewDisposeScope();
        var w = new Parameter(zeros(1));
        using var loop = new TrainingLoop(Short, [("w", w)], (_, _) => w.sqrt().sum());
        Should.Throw<EspalierException>(() => loop.Run()).Message.ShouldContain("norm of the gradients became Infinity at step 0");
        w.item<float>().ShouldBe(0f);
    }

    [Fact]
    public void Weights_ruined_by_the_last_step_are_found()
    {
        using var scope = NewDisposeScope();
        var w = new Parameter(ones(1));
        using var loop = new TrainingLoop(new TrainingOptions { Steps = 1, Optimizer = "sgd", LearningRate = 1e38 }, [("w", w)], (_, _) => (w * 1e10).sum());
        Should.Throw<EspalierException>(() => loop.Run()).Message.ShouldContain("The weights of w became infinite");
        w.item<float>().ShouldBe(1f);
    }

    [Fact]
    public void An_exploding_loss_stops_only_when_asked_to()
    {
        using var scope = NewDisposeScope();
        Func<Parameter, Func<long, int, Tensor>> loss = w => (k, _) => (w * w + 1).sum() * (k == 30 ? 50 : 1);
        var free = new Parameter(ones(1));
        using (var loop = new TrainingLoop(Short, [("w", free)], loss(free)))
        {
            loop.Run().Steps.ShouldBe(60);
        }

        var watched = new Parameter(ones(1));
        using var stopped = new TrainingLoop(Short with { StopLossFactor = 10 }, [("w", watched)], loss(watched));
        Should.Throw<EspalierException>(() => stopped.Run()).Message.ShouldContain("The loss exploded to");
    }

    [Fact]
    public void What_cannot_be_trained_is_said()
    {
        using var scope = NewDisposeScope();
        var w = new Parameter(ones(2));
        Func<long, int, Tensor> loss = (_, _) => w.sum();
        Message(() => new TrainingLoop(Short, [], loss)).ShouldContain("nothing to train");
        Message(() => new TrainingLoop(Short, [("w", w), ("w", w)], loss)).ShouldContain("w was given to the training twice");
        Message(() => new TrainingLoop(Short, [("w", new Parameter(ones(2), requires_grad: false))], loss)).ShouldContain("w is frozen");
        Message(() => Run(new TrainingLoop(Short, [("w", w)], (_, _) => ones(1)))).ShouldContain("does not depend on any trainable parameter");
        Message(() => Run(new TrainingLoop(Short, [("w", w)], (_, _) => w * 1))).ShouldContain("shape [2]; it must be one number");
        Message(() => Run(new TrainingLoop(Short, [("w", w)], loss) { Masks = new Dictionary<string, Tensor> { ["v"] = ones(2) } })).ShouldContain("mask for v");
        Message(() => Run(new TrainingLoop(Short, [("w", w)], loss) { Masks = new Dictionary<string, Tensor> { ["w"] = ones(3) } })).ShouldContain("shape [3]");
        Message(() => Run(new TrainingLoop(Short, [("w", w)], loss) { Masks = new Dictionary<string, Tensor> { ["w"] = zeros(2) } })).ShouldContain("2 weights that are not zero");
        Message(() => Run(new TrainingLoop(Short, [("w", w)], loss) { Hooks = [new TestHook(), new TestHook()] })).ShouldContain("Two training hooks");

        static string Message(Action act) => Should.Throw<EspalierException>(act).Message;
        static void Run(TrainingLoop loop)
        {
            using (loop)
            {
                loop.Run();
            }
        }
    }

    [Fact]
    public void Two_hundred_steps_leave_no_tensor_behind()
    {
        using var net = new TinyNet();
        using Tensor keep = net.PruneFirst();
        long before = 0, after = 0;
        var hook = new TestHook
        {
            OnBeforeStep = step =>
            {
                // The state of the optimizer is there after the first step.
                before = step.Index == 2 ? Live() : before;
                after = Live();
            },
        };
        using (var loop = new TrainingLoop(Short with { Steps = 200, ClipNorm = 1, Accumulation = 2 }, net.Trainable, net.Loss) { Hooks = [hook], Masks = new Dictionary<string, Tensor> { ["w1"] = keep } })
        {
            loop.Run();
        }

        after.ShouldBe(before);

        // Of this thread: other tests run beside this one.
        static long Live() => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
    }
}
