using Espalier.Catalogue;
using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Tests.Training;
using Espalier.Training;
using static TorchSharp.torch;
using Parameter = TorchSharp.Modules.Parameter;

namespace Espalier.Tests.Methods.Adaptation;

public sealed class GradNormLorpTests
{
    private static readonly ProjectedStep Step = new(2, 3, 1, ProjectionSide.Std, 0.9, 0.999, 1e-6, 0, CorrectBias: true, new StateStorage());

    public static TheoryData<string, bool> Optimizers => new() { { "galore", false }, { "gradnormlorp", false }, { "galore", true }, { "gradnormlorp", true } };

    [Theory]
    [MemberData(nameof(Optimizers))]
    public void A_stopped_run_ends_with_the_same_bytes(string slug, bool eightBits)
    {
        using var folder = new TemporaryFolder();
        byte[] whole = Train(slug, eightBits, null, null), resumed;
        Train(slug, eightBits, folder.Path, stopAt: 5);
        resumed = Train(slug, eightBits, folder.Path, null);
        resumed.ShouldBe(whole);
    }

    [Theory]
    [InlineData("galore")]
    [InlineData("gradnormlorp")]
    public void State_is_smaller_than_Adams_and_smaller_still_in_8_bits(string slug)
    {
        long adam = StateBytes(null, 32), projected = StateBytes(slug, 32), eight = StateBytes(slug, 8);
        projected.ShouldBeLessThan(adam / 2);
        eight.ShouldBeLessThan(projected);
        StateBytes(null, 8).ShouldBeLessThan(adam / 3);
    }

    [Fact]
    public void State_of_galore_is_a_basis_and_two_low_moments()
    {
        using var scope = NewDisposeScope();
        var w = new Parameter(randn(40, 10));
        using var optimizer = new ProjectedAdamW([new OptimizedParameter("w", w)], Step);
        w.grad = randn(40, 10);
        optimizer.Step(0.1);
        // r(2O + I) floats and one count
        optimizer.StateBytes().ShouldBe((4 * 2 * (80 + 10)) + 8);
    }

    [Theory]
    [InlineData(ProjectionSide.Std, 7, 4, false, true)]
    [InlineData(ProjectionSide.Std, 4, 7, true, false)]
    [InlineData(ProjectionSide.ReverseStd, 7, 4, true, false)]
    [InlineData(ProjectionSide.ReverseStd, 4, 7, false, true)]
    [InlineData(ProjectionSide.Left, 7, 4, true, false)]
    [InlineData(ProjectionSide.Right, 4, 7, false, true)]
    [InlineData(ProjectionSide.Full, 4, 7, true, true)]
    public void A_projection_of_full_rank_gives_the_gradient_back(ProjectionSide side, long rows, long columns, bool left, bool right)
    {
        using var scope = NewDisposeScope();
        Tensor gradient = randn(rows, columns);
        using var low = new GradientProjector(rows, columns, 3, 5, 1, side);
        low.LowShape.ShouldBe([left ? 3 : rows, right ? 3 : columns]);
        using var whole = new GradientProjector(rows, columns, 100, 5, 0.5, side);
        (whole.Back(whole.Project(gradient, 0)) - (gradient * 0.5)).abs().max().item<float>().ShouldBeLessThan(1e-5f);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_zero_row_stays_zero_and_a_mask_holds(bool persistent)
    {
        using var scope = NewDisposeScope();
        Tensor start = randn(6, 8);
        start[2] = 0;
        start[4, 3] = 0;
        var w = new Parameter(start);
        using var optimizer = new WeightNormAdamW([new OptimizedParameter("w", w)], Step, persistent);
        for (int step = 0; step < 7; step++)
        {
            w.grad = randn(6, 8);
            optimizer.Step(0.05);
            using var frozen = no_grad();
            w[4, 3] = 0; // as the loop's masks do
        }

        w[2].abs().max().item<float>().ShouldBe(0);
        w.isfinite().all().item<bool>().ShouldBeTrue();
        optimizer.Direction(0)[4, 3].item<float>().ShouldBe(0);
    }

    [Fact]
    public void Magnitude_times_direction_is_the_weight_and_official_forgets_magnitudes()
    {
        using var scope = NewDisposeScope();
        var w = new Parameter(randn(5, 9));
        using var optimizer = new WeightNormAdamW([new OptimizedParameter("w", w)], Step with { Rank = 0 });
        for (int step = 0; step < 5; step++)
        {
            w.grad = randn(5, 9);
            optimizer.Step(0.02);
            Tensor v = optimizer.Direction(0);
            (optimizer.Magnitude(0) * v / linalg.norm(v, 2, [1], keepdim: true) - w).abs().max().item<float>().ShouldBeLessThan(1e-5f);
        }
    }

    [Fact]
    public void A_magnitude_may_pass_through_zero_without_losing_its_direction()
    {
        using var scope = NewDisposeScope();
        var w = new Parameter(full([1, 4], 0.05f));
        using var optimizer = new WeightNormAdamW([new OptimizedParameter("w", w)], Step with { Rank = 0 });
        for (int step = 0; step < 3; step++)
        {
            w.grad = ones(1, 4);
            optimizer.Step(0.1); // Adam's first step is the learning rate, so g = 0.1 becomes 0
        }

        w.max().item<float>().ShouldBeLessThan(0);
        w.isfinite().all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void The_exact_gradients_are_those_of_autograd()
    {
        using var scope = NewDisposeScope();
        Tensor v = randn([4, 6], ScalarType.Float64).requires_grad_(), g = randn([4, 1], ScalarType.Float64).requires_grad_(), gradient = randn([4, 6], ScalarType.Float64);
        (g * v / linalg.norm(v, 2, [1], keepdim: true)).backward([gradient]);
        (Tensor gv, Tensor gg) = WeightNormAdamW.ExactGradients(v.detach(), g.detach(), gradient);
        (gv - v.grad!).abs().max().item<double>().ShouldBeLessThan(1e-12);
        (gg - g.grad!).abs().max().item<double>().ShouldBeLessThan(1e-12);
    }

    [Fact]
    public void A_weight_stored_inputs_first_steps_as_its_transpose()
    {
        using var scope = NewDisposeScope();
        Tensor start = randn(6, 9, dtype: ScalarType.Float64), gradient = randn(6, 9, dtype: ScalarType.Float64);
        Parameter w = new(start.clone()), t = new(start.t().contiguous());
        using var one = new WeightNormAdamW([new OptimizedParameter("w", w)], Step);
        using var other = new WeightNormAdamW([new OptimizedParameter("w", t)], Step, inputsFirst: new HashSet<string> { "w" });
        (w.grad, t.grad) = (gradient, gradient.t().contiguous());
        one.Step(0.1);
        other.Step(0.1);
        (w - t.t()).abs().max().item<double>().ShouldBeLessThan(1e-14);
    }

    [Fact]
    public void Codes_of_8_bits_come_back_to_within_half_a_level_and_zeros_exactly()
    {
        using var scope = NewDisposeScope();
        Tensor x = randn(1000);
        x[10] = 0;
        (Tensor codes, Tensor largest) = EightBit.Encode(x, signed: true);
        Tensor back = EightBit.Decode(codes, largest, signed: true);
        ((back - x).abs() / largest.repeat_interleave(256).narrow(0, 0, 1000)).max().item<float>().ShouldBeLessThan(0.0071f); // cells near 1 are 0.9/64 wide
        back[10].item<float>().ShouldBe(0);

        // The map has 1 but not −1, so only a block whose largest number is positive keeps its scale and comes back to the same codes.
        x[TensorIndex.Slice(0, null, 256)] = 10;
        (codes, largest) = EightBit.Encode(x, signed: true);
        EightBit.Encode(EightBit.Decode(codes, largest, signed: true), signed: true).Codes.eq(codes).all().item<bool>().ShouldBeTrue();
        EightBit.Encode(zeros(5), signed: false).Largest.sum().item<float>().ShouldBe(0);
        Should.Throw<EspalierException>(() => EightBit.Encode(tensor(new[] { float.NaN }), signed: true)).Message.ShouldContain("infinite or NaN");
    }

    [Theory]
    [InlineData("galore", "rank", 0, "rank of 0")]
    [InlineData("gradnormlorp", "rank", -1, "rank of -1")]
    [InlineData("gradnormlorp", "update_proj_gap", 0, "gap between two bases of 0")]
    [InlineData("gradnormlorp", "scale", 0, "scale of 0")]
    public void Impossible_options_are_refused(string slug, string option, object value, string words) =>
        Should.Throw<EspalierException>(() => MethodCatalogue.Default.Create<IOptimizerMethod>(slug, new Dictionary<string, object?> { [option] = value })).Message.ShouldContain(words);

    [Fact]
    public void Bad_combinations_are_refused_and_a_useless_rank_is_told()
    {
        using var net = new TinyNet();
        OptimizedParameter[] bias = [new("bias", net.Bias)], all = [.. net.Trainable.Select(t => new OptimizedParameter(t.Name, t.Value))];
        var heard = new Espalier.Tests.Pruning.Heard();
        using (new GradNormLorp { Rank = 64 }.Make(new OptimizerContext { Parameters = all, Options = new TrainingOptions(), Progress = heard }))
        {
            heard.Said.ShouldContain(w => w.Contains("rank 64 saves nothing"));
        }

        Should.Throw<EspalierException>(() => new Galore().Make(new OptimizerContext { Parameters = bias, Options = new TrainingOptions() })).Message.ShouldContain("nothing to project");
        Should.Throw<EspalierException>(() => new TrainingOptions { Optimizer = "mfac", StateBits = 8 }.Validate()).Message.ShouldContain("no state in 8 bits");
    }

    [Fact]
    public void Steps_leave_no_tensor_behind()
    {
        using var net = new TinyNet();
        Train(net, "gradnormlorp", eightBits: true, null, null);
        long before = Parameters.LiveTensors;
        Train(net, "gradnormlorp", eightBits: true, null, null);
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
    }

    private static byte[] Train(string slug, bool eightBits, string? folder, int? stopAt)
    {
        using var net = new TinyNet();
        Train(net, slug, eightBits, folder, stopAt);
        return net.Bytes();
    }

    private static void Train(TinyNet net, string slug, bool eightBits, string? folder, int? stopAt)
    {
        var options = new TrainingOptions { Steps = 12, LearningRate = 0.02, StateBits = eightBits ? 8 : 32, StateBitsFrom = 1 };
        using var stop = new CancellationTokenSource();
        var hook = new TestHook
        {
            OnAfterStep = step =>
            {
                if (step.Index + 1 == stopAt)
                {
                    stop.Cancel();
                }
            },
        };
        using var loop = new TrainingLoop(options, net.Trainable, net.Loss)
        {
            OptimizerFactory = parameters => Method(slug).Make(new OptimizerContext { Parameters = parameters, Options = options }),
            StateFolder = folder,
            Hooks = [hook],
        };
        if (stopAt is not null)
        {
            Should.Throw<OperationCanceledException>(() => loop.Run(stop.Token));
        }
        else if (folder is not null)
        {
            loop.Resume();
        }
        else
        {
            loop.Run();
        }
    }

    private static IOptimizerMethod Method(string slug) =>
        MethodCatalogue.Default.Create<IOptimizerMethod>(slug, new Dictionary<string, object?> { ["rank"] = 2, ["update_proj_gap"] = 4, ["scale"] = 1.0 });

    private static long StateBytes(string? slug, int bits)
    {
        using var scope = NewDisposeScope();
        var w = new Parameter(randn(96, 64));
        OptimizedParameter[] parameters = [new("w", w)];
        var options = new TrainingOptions { StateBits = bits, StateBitsFrom = 1 };
        using IOptimizer optimizer = slug is null
            ? new Espalier.Training.AdamW(parameters, storage: options.StateStorage)
            : MethodCatalogue.Default.Create<IOptimizerMethod>(slug, new Dictionary<string, object?> { ["rank"] = 8 }).Make(new OptimizerContext { Parameters = parameters, Options = options });
        w.grad = randn(96, 64);
        optimizer.Step(0.1);
        return optimizer.StateBytes();
    }
}
