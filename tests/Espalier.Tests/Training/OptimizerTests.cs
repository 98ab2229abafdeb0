using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Tests.Training;

public sealed class OptimizerTests
{
    [Theory]
    [InlineData(0.0)]
    [InlineData(0.1)]
    public void AdamW_steps_as_torch_does(double decay) => Compare(
        parameters => new Espalier.Training.AdamW(parameters, 0.8, 0.95, 1e-6, decay),
        parameters => optim.AdamW(parameters, 0.01, 0.8, 0.95, 1e-6, decay));

    [Theory]
    [InlineData(0.0, 0.0)]
    [InlineData(0.9, 0.0)]
    [InlineData(0.9, 0.1)]
    public void Sgd_steps_as_torch_does(double momentum, double decay) => Compare(
        parameters => new Sgd(parameters, momentum, decay),
        parameters => optim.SGD(parameters, 0.01, momentum, weight_decay: decay));

    [Fact]
    public void Sgd_with_Nesterov_steps_as_torch_does() => Compare(
        parameters => new Sgd(parameters, 0.9, 0.1, nesterov: true),
        parameters => optim.SGD(parameters, 0.01, 0.9, weight_decay: 0.1, nesterov: true));

    [Fact]
    public void AdamW_first_step_moves_by_the_learning_rate_and_decays_apart_from_it()
    {
        using var scope = NewDisposeScope();
        var weight = new Parameter(tensor(new[] { 2f, -2f }));
        using var optimizer = new Espalier.Training.AdamW([new OptimizedParameter("w", weight)], weightDecay: 0.5);
        weight.grad = tensor(new[] { 3f, -0.01f });
        optimizer.Step(0.1);
        // w(1 − 0.1·0.5) − 0.1·sign(g)
        weight.data<float>().ToArray().ShouldBe([1.8f, -1.8f], 1e-5);
    }

    [Fact]
    public void Groups_multiply_rate_and_decay()
    {
        using var scope = NewDisposeScope();
        Parameter slow = new(ones(1)), still = new(ones(1));
        using var optimizer = new Sgd([new("slow", slow, new ParameterGroup(0.5, 0)), new("still", still, new ParameterGroup(0))], weightDecay: 10);
        (slow.grad, still.grad) = (ones(1), ones(1));
        optimizer.Step(0.1);
        slow.item<float>().ShouldBe(0.95f, 1e-6f);
        still.item<float>().ShouldBe(1f);
    }

    [Fact]
    public void A_parameter_without_gradient_is_left_alone()
    {
        using var scope = NewDisposeScope();
        var weight = new Parameter(ones(3));
        using var optimizer = new Espalier.Training.AdamW([new OptimizedParameter("w", weight)], weightDecay: 1);
        optimizer.Step(1);
        weight.sum().item<float>().ShouldBe(3f);
    }

    [Fact]
    public void State_of_other_parameters_is_refused()
    {
        using var scope = NewDisposeScope();
        var weight = new Parameter(ones(3));
        using var optimizer = new Espalier.Training.AdamW([new OptimizedParameter("w", weight)]);
        Should.Throw<EspalierException>(() => optimizer.LoadState(new Dictionary<string, Tensor>())).Message.ShouldContain("another set of parameters");
        Should.Throw<EspalierException>(() => optimizer.LoadState(new Dictionary<string, Tensor> { ["updates"] = tensor(new[] { 4L }) })).Message.ShouldContain("exp_avg.w");
    }

    private static void Compare(Func<IReadOnlyList<OptimizedParameter>, IOptimizer> ours, Func<IEnumerable<Parameter>, optim.Optimizer> theirs)
    {
        using var scope = NewDisposeScope();
        using var generator = new Seed(3).Generator("optimizer");
        Tensor start = randn(4, 5, generator: generator), target = randn(4, 5, generator: generator);
        Parameter a = new(start.clone()), b = new(start.clone());
        using IOptimizer mine = ours([new OptimizedParameter("w", a)]);
        using optim.Optimizer reference = theirs([b]);
        for (int k = 0; k < 25; k++)
        {
            foreach (Parameter p in new[] { a, b })
            {
                p.grad = null;
                ((p - target).pow(2) * (k + 1)).mean().backward();
            }

            mine.Step(0.01);
            reference.step();
        }

        (a - b).abs().max().item<float>().ShouldBeLessThanOrEqualTo(1e-6f);
        (a - start).abs().max().item<float>().ShouldBeGreaterThan(1e-2f);
    }
}
