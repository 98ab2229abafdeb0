using Espalier.Sparsity.Packed;

namespace Espalier.Tests.Sparsity.Packed;

public sealed class WorkerTeamTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(5)]
    public void Every_part_is_done_once_and_before_the_call_returns_whether_threads_spin_or_sleep(int size)
    {
        const int parts = 40, calls = 3000;
        int next = 0;
        var done = new int[parts];
        using var team = new WorkerTeam(size, () =>
        {
            for (int part = Interlocked.Increment(ref next) - 1; part < parts; part = Interlocked.Increment(ref next) - 1)
            {
                Thread.SpinWait(part);
                done[part]++;
            }
        });
        for (int call = 1; call <= calls; call++)
        {
            next = 0;
            team.Run();
            done.ShouldAllBe(count => count == call);
            if (call % 500 == 0)
            {
                Thread.Sleep(2); // all are asleep by then
            }
            else if (call % 7 == 0)
            {
                Thread.SpinWait(call); // about when they go to sleep
            }
        }
    }

    [Fact]
    public void Threads_that_spin_or_sleep_really_help()
    {
        var helpers = new HashSet<int>();
        using var met = new Barrier(2);
        using var team = new WorkerTeam(2, () =>
        {
            met.SignalAndWait(TimeSpan.FromSeconds(30)).ShouldBeTrue(); // passes only when both are at work at once
            lock (helpers)
            {
                helpers.Add(Environment.CurrentManagedThreadId);
            }
        });
        team.Run();
        Thread.Sleep(5);
        team.Run();
        helpers.Count.ShouldBe(2);
    }

    [Fact]
    public void A_thread_that_comes_too_late_does_no_work_after_the_call()
    {
        int caller = Environment.CurrentManagedThreadId, late = 0;
        using var team = new WorkerTeam(2, () => Interlocked.Add(ref late, Environment.CurrentManagedThreadId == caller ? 0 : 1));
        for (int call = 0; call < 200; call++)
        {
            Thread.Sleep(call % 3 == 0 ? 1 : 0);
            team.Run();
        }

        int seen = late;
        Thread.Sleep(20);
        late.ShouldBe(seen, "a thread worked after the last call had returned");
    }

    [Fact]
    public void A_fault_of_any_thread_reaches_the_caller_and_the_next_call_works()
    {
        int caller = Environment.CurrentManagedThreadId;
        bool fail = true;
        using var met = new Barrier(2);
        using var team = new WorkerTeam(2, () =>
        {
            met.SignalAndWait(TimeSpan.FromSeconds(30)).ShouldBeTrue();
            if (fail && Environment.CurrentManagedThreadId != caller)
            {
                throw new FormatException("broken");
            }
        });
        Should.Throw<InvalidOperationException>(team.Run).InnerException.ShouldBeOfType<FormatException>();
        fail = false;
        team.Run();
    }
}
