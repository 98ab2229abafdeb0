using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Tests.Training;

/// <summary>A two-layer net on a fixed random teacher; batches are a pure function of step and micro-batch.</summary>
internal sealed class TinyNet : IDisposable
{
    private readonly Tensor _teacher;

    public TinyNet()
    {
        using var scope = NewDisposeScope();
        using var generator = new Seed(11).Generator("net");
        _teacher = randn(6, 3, generator: generator).DetachFromDisposeScope();
        W1 = new Parameter((0.3 * randn(16, 6, generator: generator)).DetachFromDisposeScope());
        W2 = new Parameter((0.3 * randn(3, 16, generator: generator)).DetachFromDisposeScope());
        Bias = new Parameter(zeros(3).DetachFromDisposeScope());
        foreach ((_, Parameter value) in Trainable)
        {
            value.DetachFromDisposeScope();
        }
    }

    public Parameter W1 { get; }

    public Parameter W2 { get; }

    public Parameter Bias { get; }

    public IReadOnlyList<(string Name, Parameter Value)> Trainable => [("w1", W1), ("w2", W2), ("bias", Bias)];

    public Tensor Loss(long step, int microBatch)
    {
        using var generator = new Seed(step * 100 + microBatch).Generator("batch");
        Tensor x = randn(32, 6, generator: generator);
        Tensor y = nn.functional.linear(nn.functional.gelu(nn.functional.linear(x, W1)), W2, Bias);
        return (y - x.mm(_teacher)).pow(2).mean();
    }

    /// <summary>Prunes every third weight of the first layer; the keep mask.</summary>
    public Tensor PruneFirst()
    {
        using var frozen = no_grad();
        Tensor keep = arange(W1.numel()).remainder(3).ne(0).reshape(W1.shape);
        W1.mul_(keep);
        return keep;
    }

    public double MaxDifference(TinyNet other)
    {
        using var scope = NewDisposeScope();
        return Trainable.Zip(other.Trainable).Max(p => (p.First.Value - p.Second.Value).abs().max().item<float>());
    }

    public byte[] Bytes() => [.. Trainable.SelectMany(t => t.Value.detach().bytes.ToArray())];

    public void Dispose()
    {
        foreach ((_, Parameter value) in Trainable)
        {
            value.Dispose();
        }

        _teacher.Dispose();
    }
}

/// <summary>A hook made of functions.</summary>
internal sealed class TestHook : ITrainingHook
{
    public Action<TrainingStep>? OnBeforeStep { get; init; }

    public Action<TrainingStep>? OnAfterBackward { get; init; }

    public Action<TrainingStep>? OnAfterStep { get; init; }

    public void BeforeStep(TrainingStep step) => OnBeforeStep?.Invoke(step);

    public void AfterBackward(TrainingStep step) => OnAfterBackward?.Invoke(step);

    public void AfterStep(TrainingStep step) => OnAfterStep?.Invoke(step);
}
