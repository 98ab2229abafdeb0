namespace Espalier.Sparsity.Packed;

/// <summary>Threads that wait for the next piece of work, spin a little and then sleep. The caller works too.</summary>
internal sealed class WorkerTeam : IDisposable
{
    private readonly Action<int, int> work;
    private readonly Thread[] threads;
    private readonly SemaphoreSlim[] begin;
    private int unfinished;
    private volatile bool ended;
    private Exception? fault;

    /// <param name="size">How many work together, the caller included.</param>
    /// <param name="work">Does the share of one (its number, how many there are).</param>
    public WorkerTeam(int size, Action<int, int> work)
    {
        this.work = work;
        begin = [.. Enumerable.Range(0, size - 1).Select(_ => new SemaphoreSlim(0))];
        threads = [.. Enumerable.Range(1, size - 1).Select(i => new Thread(() => Serve(i)) { IsBackground = true, Name = $"packed kernels {i}" })];
        foreach (Thread thread in threads)
        {
            thread.Start();
        }
    }

    /// <summary>Lets all do their share and waits until they have.</summary>
    public void Run()
    {
        int size = threads.Length + 1;
        Volatile.Write(ref unfinished, threads.Length);
        foreach (SemaphoreSlim one in begin)
        {
            one.Release();
        }

        try
        {
            work(0, size);
        }
        finally
        {
            var wait = new SpinWait();
            while (Volatile.Read(ref unfinished) > 0)
            {
                wait.SpinOnce();
            }
        }

        if (fault is not null)
        {
            throw new InvalidOperationException("A thread of the packed kernels failed.", fault);
        }
    }

    public void Dispose()
    {
        ended = true;
        foreach (SemaphoreSlim one in begin)
        {
            one.Release();
        }

        foreach (Thread thread in threads)
        {
            thread.Join();
        }
    }

    private void Serve(int index)
    {
        while (true)
        {
            begin[index - 1].Wait();
            if (ended)
            {
                return;
            }

            try
            {
                work(index, threads.Length + 1);
            }
            catch (Exception thrown)
            {
                fault = thrown;
            }

            Interlocked.Decrement(ref unfinished);
        }
    }
}
