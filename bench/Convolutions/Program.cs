using System.Diagnostics;
using Espalier.Runtime;
using static TorchSharp.torch;

// How many convolutions this machine's libtorch computes wrongly (outputs and both gradients against float64), and how fast some are on one thread. With
// ONEDNN_MAX_CPU_ISA=ALL before it: without the limit that HiddenCaches sets where a machine hides its caches.
NativeLibraries.EnsureLoaded();
Console.WriteLine($"caches hidden: {HiddenCaches.Found}; {HiddenCaches.LimitVariable}: {Environment.GetEnvironmentVariable(HiddenCaches.LimitVariable) ?? "not set"}");
foreach (int threads in (int[])[1, 2])
{
    set_num_threads(threads);
    int tried = 0, wrong = 0;
    foreach (Shape shape in Shapes())
    {
        tried++;
        wrong += Error(shape) < 1e-4 ? 0 : 1;
    }

    Console.WriteLine($"{threads} thread{(threads == 1 ? "" : "s")}: {wrong} of {tried} convolutions wrong");
}

set_num_threads(1);
(Shape, int)[] timed = [(new(16, 16, 3, 1, 1, 32), 128), (new(32, 32, 3, 1, 1, 16), 128), (new(64, 64, 3, 1, 1, 8), 128), (new(64, 64, 3, 1, 1, 56), 8), (new(128, 128, 3, 1, 1, 16), 16), (new(256, 256, 3, 1, 1, 8), 32), (new(64, 256, 1, 1, 1, 14), 16), (new(64, 64, 3, 1, 64, 28), 16)];
foreach ((Shape shape, int batch) in timed)
{
    (double forwards, double both) = Milliseconds(shape, batch);
    Console.WriteLine(FormattableString.Invariant($"{shape.Inputs,4} to {shape.Outputs,3} channels, kernel {shape.Kernel}, groups {shape.Groups,2}, {shape.Side} x {shape.Side}, batch {batch,3}: forwards {forwards,6:0.0} ms, with backwards {both,6:0.0} ms"));
}

static IEnumerable<Shape> Shapes() =>
    from inputs in (int[])[1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 100]
    from outputs in (int[])[1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 100]
    from kernel in (int[])[1, 3, 5, 8]
    from stride in (int[])[1, 2, 8]
    from groups in (int[])[1, 4]
    where inputs % groups == 0 && outputs % groups == 0
    select new Shape(inputs, outputs, kernel, stride, groups, 9);

static double Error(Shape shape)
{
    using var scope = NewDisposeScope();
    using Generator generator = new Seed(3).Generator("convolution");
    Tensor x = randn([4, shape.Inputs, shape.Side, shape.Side], dtype: ScalarType.Float64, generator: generator);
    Tensor w = randn([shape.Outputs, shape.Inputs / shape.Groups, shape.Kernel, shape.Kernel], dtype: ScalarType.Float64, generator: generator);
    Tensor[] exact = Run(shape, x, w), single = Run(shape, x.to(ScalarType.Float32), w.to(ScalarType.Float32));
    return exact.Zip(single).Max(p => ((p.Second.to(ScalarType.Float64) - p.First).abs().max() / p.First.abs().max()).item<double>() is var error && double.IsNaN(error) ? double.PositiveInfinity : error);
}

static Tensor[] Run(Shape shape, Tensor x, Tensor w)
{
    (Tensor input, Tensor weight) = (x.detach().clone().requires_grad_(), w.detach().clone().requires_grad_());
    Tensor y = shape.Of(input, weight);
    y.square().sum().backward();
    return [y.detach(), input.grad!, weight.grad!];
}

static (double Forwards, double Both) Milliseconds(Shape shape, int batch)
{
    using var scope = NewDisposeScope();
    Tensor x = rand(batch, shape.Inputs, shape.Side, shape.Side).requires_grad_(), w = (rand(shape.Outputs, shape.Inputs / shape.Groups, shape.Kernel, shape.Kernel) - 0.5f).requires_grad_();
    (double forwards, double both) = (double.PositiveInfinity, double.PositiveInfinity);
    for (int round = 0; round < 10; round++)
    {
        using var inner = NewDisposeScope();
        long start = Stopwatch.GetTimestamp();
        Tensor y = shape.Of(x, w);
        forwards = Math.Min(forwards, Stopwatch.GetElapsedTime(start).TotalMilliseconds);
        y.sum().backward();
        both = Math.Min(both, Stopwatch.GetElapsedTime(start).TotalMilliseconds);
    }

    return (forwards, both);
}

/// <summary>A convolution of square images, padded so that a stride of 1 keeps their side.</summary>
internal sealed record Shape(int Inputs, int Outputs, int Kernel, int Stride, int Groups, int Side)
{
    public Tensor Of(Tensor x, Tensor w) => nn.functional.conv2d(x, w, padding: [Kernel / 2, Kernel / 2], strides: [Stride, Stride], groups: Groups);
}
