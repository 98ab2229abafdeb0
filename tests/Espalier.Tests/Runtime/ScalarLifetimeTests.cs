using System.Diagnostics;
using static TorchSharp.torch;

namespace Espalier.Tests.Runtime;

public sealed class ScalarLifetimeTests
{
    /// <summary>With TorchSharp 0.107.0 as published this ends the process within a second (build/NativeLibraries/ScalarLifetime.cs).</summary>
    [Fact]
    public void Collections_on_another_thread_do_not_free_scalars_that_a_native_call_uses()
    {
        using var stop = new CancellationTokenSource();
        var collector = new Thread(() =>
        {
            while (!stop.IsCancellationRequested)
            {
                GC.Collect(0);
                GC.WaitForPendingFinalizers();
            }
        });
        collector.Start();
        using var outer = NewDisposeScope();
        Tensor x = ones(1000, 1000);
        var clock = Stopwatch.StartNew();
        while (clock.Elapsed.TotalSeconds < 2)
        {
            using var scope = NewDisposeScope();
            x.masked_fill(x.gt(2), 0).mul(2.5).add(1.5)[3, 4].item<float>().ShouldBe(4f);
        }

        stop.Cancel();
        collector.Join();
    }
}
