using System.Diagnostics;

namespace Espalier.Sparsity.Packed;

/// <summary>
/// Threads that take part in the caller's work. Between two pieces of work they spin for a moment, since the next product of a decoding
/// step comes within microseconds, and then sleep. The work itself deals out its parts: a thread that wakes too late finds nothing left,
/// and nobody waits for it.
/// </summary>
internal sealed class WorkerTeam : IDisposable
{
    /// <summary>How long a thread spins before it sleeps, in microseconds; some gaps between products of a step are longer than one wake-up.</summary>
    internal const int SpinMicroseconds = 100;

    private const int Open = 1 << 30;
    private static readonly long SpinTicks = Stopwatch.Frequency * SpinMicroseconds / 1_000_000;

    private readonly Action work;
    private readonly Thread[] threads;
    private readonly SemaphoreSlim[] wake;
    private readonly int[] asleep;
    private int door; // Open while there is work, plus how many threads are at it
    private int call;
    private volatile bool ended;
    private Exception? fault;

    /// <param name="size">How many work together, the caller included.</param>
    /// <param name="work">Takes parts of the work and does them until none is left; called by several threads at once.</param>
    public WorkerTeam(int size, Action work)
    {
        this.work = work;
        asleep = new int[size - 1];
        wake = [.. asleep.Select(_ => new SemaphoreSlim(0))];
        threads = [.. Enumerable.Range(0, size - 1).Select(i => new Thread(() => Serve(i)) { IsBackground = true, Name = $"packed kernels {i + 1}" })];
        foreach (Thread thread in threads)
        {
            thread.Start();
        }
    }

    /// <summary>Does the work, with the others' help, and waits until all who began have ended.</summary>
    public void Run()
    {
        if (threads.Length == 0)
        {
            work();
            return;
        }

        fault = null;
        Interlocked.Exchange(ref door, Open);
        Call();
        try
        {
            work();
        }
        finally
        {
            Interlocked.And(ref door, ~Open);
            var wait = new SpinWait();
            while (Volatile.Read(ref door) != 0)
            {
                wait.SpinOnce(sleep1Threshold: -1); // a sleep would last a millisecond; a part lasts microseconds
            }
        }

        if (fault is { } thrown)
        {
            throw new InvalidOperationException("A thread of the packed kernels failed.", thrown);
        }
    }

    public void Dispose()
    {
        ended = true;
        Call();
        foreach (Thread thread in threads)
        {
            thread.Join();
        }

        foreach (SemaphoreSlim one in wake)
        {
            one.Dispose();
        }
    }

    private void Call()
    {
        Interlocked.Increment(ref call);
        for (int i = 0; i < asleep.Length; i++)
        {
            if (Volatile.Read(ref asleep[i]) == 1 && Interlocked.Exchange(ref asleep[i], 0) == 1)
            {
                wake[i].Release();
            }
        }
    }

    private void Serve(int index)
    {
        int heard = 0;
        while (true)
        {
            Await(index, heard);
            heard = Volatile.Read(ref call);
            if (ended)
            {
                return;
            }

            if (!Enter())
            {
                continue;
            }

            try
            {
                work();
            }
            catch (Exception thrown)
            {
                Volatile.Write(ref fault, thrown);
            }

            Interlocked.Decrement(ref door);
        }
    }

    private void Await(int index, int heard)
    {
        long began = Stopwatch.GetTimestamp();
        while (Volatile.Read(ref call) == heard)
        {
            if (Stopwatch.GetTimestamp() - began < SpinTicks)
            {
                Thread.SpinWait(4);
                continue;
            }

            // Whoever takes the mark down decides: a caller then releases the semaphore, so that it must be waited for.
            Interlocked.Exchange(ref asleep[index], 1);
            if (Volatile.Read(ref call) == heard || Interlocked.Exchange(ref asleep[index], 0) == 0)
            {
                wake[index].Wait();
            }
        }
    }

    // The door may close between a look and a step in, so both are one exchange.
    private bool Enter()
    {
        int seen = Volatile.Read(ref door);
        while ((seen & Open) != 0)
        {
            int found = Interlocked.CompareExchange(ref door, seen + 1, seen);
            if (found == seen)
            {
                return true;
            }

            seen = found;
        }

        return false;
    }
}
