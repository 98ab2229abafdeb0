namespace Espalier.Tests.Sparsity.Packed;

internal static class SteadyState
{
    /// <summary>
    /// The managed bytes that the work allocates on this thread each time. What it does each time shows in every round of ten; the first
    /// wait on a contended lock allocates too, but only once, whenever it comes, so the round with the fewest bytes counts.
    /// </summary>
    public static long Allocated(Action work)
    {
        for (int i = 0; i < 20; i++)
        {
            work();
        }

        long least = long.MaxValue;
        for (int round = 0; round < 5 && least > 0; round++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < 10; i++)
            {
                work();
            }

            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        return least;
    }
}
