using System.Diagnostics;
using Espalier.Runtime;
using static TorchSharp.torch;

// How many convolutions this machine's libtorch computes wrongly (outputs and both gradients against float64), and how fast some are on one thread. With
// ONEDNN_MAX_CPU_ISA=ALL before it: without what HiddenCaches does where a machine hides its caches; with SSE41: with oneDNN held to what is right there by itself.
NativeLibraries.EnsureLoaded();
Console.WriteLine($"caches hidden: {HiddenCaches.Found}; {HiddenCaches.LimitVariable}: {Environment.GetEnvironmentVariable(HiddenCaches.LimitVariable) ?? "not set"}; {HiddenCaches.Remedy ?? "nothing done about it"}");
foreach (int threads in (int[])[1, 2])
{
    set_num_threads(threads);
    int tried = 0, wrong = 0;
    foreach (ConvolutionCheck shape in Shapes())
    {
        tried++;
        wrong += shape.Error() < ConvolutionCheck.Tolerance ? 0 : 1;
    }

    Console.WriteLine($"{threads} thread{(threads == 1 ? "" : "s")}: {wrong} of {tried} convolutions wrong");
}

set_num_threads(1);
ConvolutionCheck[] timed = [new(16, 16, 3, 1, 1, 32, 128), new(32, 32, 3, 1, 1, 16, 128), new(64, 64, 3, 1, 1, 8, 128), new(64, 64, 3, 1, 1, 56, 8), new(128, 128, 3, 1, 1, 16, 16), new(256, 256, 3, 1, 1, 8, 32), new(64, 256, 1, 1, 1, 14, 16), new(64, 64, 3, 1, 64, 28, 16)];
foreach (ConvolutionCheck shape in timed)
{
    (double forwards, double both) = Milliseconds(shape);
    Console.WriteLine(FormattableString.Invariant($"{shape.Inputs,4} to {shape.Outputs,3} channels, kernel {shape.Kernel}, groups {shape.Groups,2}, {shape.Side} x {shape.Side}, batch {shape.Batch,3}: forwards {forwards,6:0.0} ms, with backwards {both,6:0.0} ms"));
}

static IEnumerable<ConvolutionCheck> Shapes() => Small().Concat(Large());

static IEnumerable<ConvolutionCheck> Small() =>
    from inputs in (int[])[1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 100]
    from outputs in (int[])[1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 100]
    from kernel in (int[])[1, 3, 5, 8]
    from stride in (int[])[1, 2, 8]
    from groups in (int[])[1, 4]
    where inputs % groups == 0 && outputs % groups == 0
    select new ConvolutionCheck(inputs, outputs, kernel, stride, groups);

static IEnumerable<ConvolutionCheck> Large() =>
    from inputs in (int[])[3, 10, 40, 130]
    from outputs in (int[])[3, 16, 50, 130]
    from kernel in (int[])[1, 3, 7]
    from stride in (int[])[1, 2]
    from side in (int[])[32, 57]
    select new ConvolutionCheck(inputs, outputs, kernel, stride, Side: side, Batch: 2);

static (double Forwards, double Both) Milliseconds(ConvolutionCheck shape)
{
    using var scope = NewDisposeScope();
    Tensor x = rand(shape.Batch, shape.Inputs, shape.Side, shape.Side).requires_grad_(), w = (rand(shape.Outputs, shape.Inputs / shape.Groups, shape.Kernel, shape.Kernel) - 0.5f).requires_grad_();
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
