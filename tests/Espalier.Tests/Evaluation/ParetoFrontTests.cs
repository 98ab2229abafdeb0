using CsCheck;
using Espalier.Evaluation;

namespace Espalier.Tests.Evaluation;

public sealed class ParetoFrontTests
{
    // Few values, so that ties are common.
    private static readonly Gen<(double X, double Y)[]> points = Gen.Select(Gen.Int[0, 6], Gen.Int[0, 6], (x, y) => ((double)x, (double)y)).Array[0, 12];

    private static readonly Gen<Goal> goals = Gen.Enum<Goal>();

    [Fact]
    public void Whoever_is_beaten_is_beaten_by_a_member_and_no_member_is() =>
        Gen.Select(points, goals, goals).Sample((all, x, y) =>
        {
            IReadOnlyList<int> front = ParetoFront.Of(all, x, y);
            for (int i = 0; i < all.Length; i++)
            {
                front.Contains(i).ShouldBe(!all.Any(other => Beats(other, all[i], x, y)));
                if (!front.Contains(i))
                {
                    front.ShouldContain(j => Beats(all[j], all[i], x, y));
                }
            }
        });

    [Fact]
    public void Along_the_front_one_figure_gains_where_the_other_loses() =>
        points.Sample(all =>
        {
            (double X, double Y)[] front = [.. ParetoFront.Of(all, Goal.Lower).Select(i => all[i]).Distinct()];
            foreach (((double X, double Y) left, (double X, double Y) right) in front.Zip(front.Skip(1)))
            {
                right.X.ShouldBeGreaterThan(left.X);
                right.Y.ShouldBeLessThan(left.Y);
            }

            (front.Length == 0).ShouldBe(all.Length == 0);
        });

    [Fact]
    public void Order_does_not_matter_and_the_front_of_a_front_is_itself() =>
        Gen.Select(points, goals).Sample((all, x) =>
        {
            (double, double)[] front = Members(all, x);
            Members([.. all.Reverse()], x).Order().ShouldBe(front.Order());
            Members(front, x).ShouldBe(front);
        });

    [Fact]
    public void What_is_no_number_is_never_on_it() =>
        ParetoFront.Of([(double.NaN, 0), (1, 1), (double.NegativeInfinity, 0)], Goal.Lower).ShouldBe([1]);

    private static (double X, double Y)[] Members((double X, double Y)[] all, Goal x) => [.. ParetoFront.Of(all, x).Select(i => all[i])];

    private static bool Beats((double X, double Y) a, (double X, double Y) b, Goal x, Goal y)
    {
        int first = Better(a.X, b.X, x), second = Better(a.Y, b.Y, y);
        return first >= 0 && second >= 0 && first + second > 0;
    }

    private static int Better(double a, double b, Goal goal) => goal is Goal.Lower ? b.CompareTo(a) : a.CompareTo(b);
}
