using System.Diagnostics;
using System.Runtime.Intrinsics;
using Espalier.Runtime;
using NativeMemory = System.Runtime.InteropServices.NativeMemory;

namespace Espalier.Race;

/// <summary>How fast threads can read memory: each sums its part of a buffer far larger than any cache.</summary>
internal sealed unsafe class Bandwidth : IDisposable
{
    private const long Bytes = 1L << 30;
    private const int Streams = 4, Passes = 3;

    private readonly byte* buffer = (byte*)NativeMemory.AlignedAlloc((nuint)Bytes, 4096);

    // Every page must be a page of its own: pages never written are all the same page of zeros.
    public Bandwidth() => new Span<long>(buffer, (int)(Bytes / sizeof(long))).Fill(1);

    /// <summary>Gigabytes (10⁹) per second, the best of a few passes.</summary>
    public double Measure(int threads) => Enumerable.Range(0, Passes).Max(_ => Pass(threads));

    public void Dispose() => NativeMemory.AlignedFree(buffer);

    private double Pass(int threads)
    {
        long[] sums = new long[threads], begun = new long[threads], ended = new long[threads];
        using var begin = new Barrier(threads);
        Thread[] team = [.. Enumerable.Range(0, threads).Select(i => new Thread(() =>
        {
            begin.SignalAndWait();
            begun[i] = Stopwatch.GetTimestamp();
            sums[i] = Sum(buffer + (Bytes / threads * i), Bytes / threads);
            ended[i] = Stopwatch.GetTimestamp();
        }))];
        foreach (Thread one in team)
        {
            one.Start();
        }

        foreach (Thread one in team)
        {
            one.Join();
        }

        // By the threads' own clocks: whoever only waits for them may be woken late.
        double seconds = Stopwatch.GetElapsedTime(begun.Min(), ended.Max()).TotalSeconds;
        EspalierException.Require(sums.Sum() == Bytes / sizeof(long), "The buffer's sum is wrong: not all of it was read.");
        return Bytes / seconds / 1e9;
    }

    // Several places at once, as a kernel with several rows in flight reads.
    private static long Sum(byte* from, long bytes)
    {
        long part = bytes / Streams;
        Vector512<long> a = default, b = default, c = default, d = default;
        for (long at = 0; at < part; at += 64)
        {
            a += Vector512.Load((long*)(from + at));
            b += Vector512.Load((long*)(from + part + at));
            c += Vector512.Load((long*)(from + (2 * part) + at));
            d += Vector512.Load((long*)(from + (3 * part) + at));
        }

        return Vector512.Sum(a + b + c + d);
    }
}
