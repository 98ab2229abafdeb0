using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>S²FT's order of the units of a coupled structure: what the first map trains, what both train, what the second trains, then all others; each map's part is one range.</summary>
/// <param name="Order">order[j] is the unit that stands at place j.</param>
/// <param name="First">The first map's range [Start, End) of places (values, up).</param>
/// <param name="Second">The second map's range (output, down).</param>
internal sealed record S2ftPermutation(long[] Order, (long Start, long End) First, (long Start, long End) Second)
{
    /// <summary>The order for two lists of units.</summary>
    /// <param name="first">The units whose outputs the first map trains.</param>
    /// <param name="second">The units whose inputs the second map trains.</param>
    /// <param name="count">How many units there are.</param>
    /// <exception cref="EspalierException">For a unit that is not there or comes twice.</exception>
    public static S2ftPermutation Of(IReadOnlyList<long> first, IReadOnlyList<long> second, long count)
    {
        Check(first, count);
        Check(second, count);
        HashSet<long> inFirst = [.. first], inSecond = [.. second];
        long[] onlyFirst = [.. first.Where(u => !inSecond.Contains(u))], both = [.. first.Where(inSecond.Contains)], onlySecond = [.. second.Where(u => !inFirst.Contains(u))];
        var rest = Enumerable.Range(0, (int)count).Select(u => (long)u).Where(u => !inFirst.Contains(u) && !inSecond.Contains(u));
        long a = onlyFirst.Length, b = a + both.Length, c = b + onlySecond.Length;
        return new S2ftPermutation([.. onlyFirst, .. both, .. onlySecond, .. rest], (0, b), (a, c));
    }

    /// <summary>The order that brings every unit back.</summary>
    public long[] Inverse()
    {
        var back = new long[Order.Length];
        for (int place = 0; place < back.Length; place++)
        {
            back[Order[place]] = place;
        }

        return back;
    }

    /// <summary>Moves the units of one tensor in place.</summary>
    /// <param name="stored">The tensor, as it is stored.</param>
    /// <param name="pattern">Where the units lie.</param>
    /// <param name="order">order[j] is the unit that comes to place j.</param>
    public static void Move(Tensor stored, SlicePattern pattern, long[] order)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor places = tensor([.. Enumerable.Range(0, order.Length).SelectMany(j => Entries(pattern, j))], device: stored.device);
        Tensor units = tensor([.. order.SelectMany(u => Entries(pattern, u))], device: stored.device);
        stored.index_copy_(pattern.Axis, places, stored.index_select(pattern.Axis, units));
    }

    /// <summary>The blocks of a matrix in another order, as a new tensor: what <see cref="Move"/> does for units that fill an axis.</summary>
    /// <param name="matrix">The matrix.</param>
    /// <param name="axis">0 rows, 1 columns.</param>
    /// <param name="width">Rows or columns of one unit.</param>
    /// <param name="order">The order.</param>
    public static Tensor Blocks(Tensor matrix, int axis, long width, IReadOnlyList<long> order)
    {
        using var scope = NewDisposeScope();
        Tensor at = tensor([.. order.SelectMany(u => Enumerable.Range(0, (int)width).Select(i => (u * width) + i))], device: matrix.device);
        return matrix.index_select(axis, at).MoveToOuterDisposeScope();
    }

    private static IEnumerable<long> Entries(SlicePattern pattern, long unit) =>
        Enumerable.Range(0, (int)pattern.Length).Select(i => pattern.Offset + (unit * pattern.Stride) + i);

    private static void Check(IReadOnlyList<long> units, long count)
    {
        long wrong = units.FirstOrDefault(u => u < 0 || u >= count, -1);
        bool outside = units.Any(u => u < 0 || u >= count);
        EspalierException.Require(!outside, $"There is no unit {wrong}; units go from 0 to {count - 1}.");
        EspalierException.Require(units.Distinct().Count() == units.Count, "A unit is selected twice; name each once.");
    }
}
