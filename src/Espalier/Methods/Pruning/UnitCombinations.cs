using Espalier.Runtime;

namespace Espalier.Methods.Pruning;

/// <summary>Choices of units to remove: all combinations of each layer in lexicographic order, the first layer slowest.</summary>
/// <param name="Removed">How many units each layer loses.</param>
/// <param name="Choices">The units of each choice, layer after layer.</param>
public sealed record UnitCombinations(IReadOnlyList<int> Removed, IReadOnlyList<int[][]> Choices)
{
    /// <summary>How many units a share removes, rounded down.</summary>
    /// <exception cref="EspalierException">When none or all would go.</exception>
    public static int Count(int units, double ratio)
    {
        int count = (int)(units * ratio);
        EspalierException.Require(count >= 1 && count < units, FormattableString.Invariant($"A share of {ratio} of {units} units removes {count}; at least one must go and one must stay."));
        return count;
    }

    /// <summary>Every choice.</summary>
    /// <param name="layers">Units and share of each layer.</param>
    /// <param name="limit">The most choices.</param>
    /// <exception cref="EspalierException">When there are more, with the advice to sample.</exception>
    public static UnitCombinations All(IReadOnlyList<(int Units, double Ratio)> layers, long limit)
    {
        int[] removed = [.. layers.Select(l => Count(l.Units, l.Ratio))];
        double all = layers.Zip(removed, (l, k) => Enumerable.Range(1, k).Aggregate(1.0, (ways, i) => ways * (l.Units - k + i) / i)).Aggregate(1.0, (a, b) => a * b);
        EspalierException.Require(all <= limit + 0.5, FormattableString.Invariant($"There are {all:N0} ways to remove these units, more than the limit of {limit}; sample some of them (samples), or remove from fewer layers."));
        IEnumerable<int[][]> choices = [[]];
        foreach (((int units, _), int k) in layers.Zip(removed))
        {
            int[][] own = [.. Of(units, k)];
            choices = [.. choices.SelectMany(_ => own, (before, next) => (int[][])[.. before, next])];
        }

        return new UnitCombinations(removed, [.. choices]);
    }

    /// <summary>Distinct choices by chance, the units of each layer ascending.</summary>
    /// <param name="layers">Units and share of each layer.</param>
    /// <param name="count">How many; fewer where so many are not found in a hundred times as many draws.</param>
    /// <param name="seed">The seed.</param>
    public static UnitCombinations Sample(IReadOnlyList<(int Units, double Ratio)> layers, int count, Seed seed)
    {
        int[] removed = [.. layers.Select(l => Count(l.Units, l.Ratio))];
        Random random = seed.Random("combinations of units");
        var (seen, choices) = (new HashSet<string>(StringComparer.Ordinal), new List<int[][]>());
        for (long draws = 0; choices.Count < count && draws < 100L * count; draws++)
        {
            int[][] choice = [.. layers.Zip(removed, (l, k) =>
            {
                int[] units = [.. Enumerable.Range(0, l.Units)];
                random.Shuffle(units);
                return units.Take(k).Order().ToArray();
            })];
            if (seen.Add(string.Join(';', choice.Select(u => string.Join(',', u)))))
            {
                choices.Add(choice);
            }
        }

        return new UnitCombinations(removed, choices);
    }

    private static IEnumerable<int[]> Of(int units, int k)
    {
        int[] current = [.. Enumerable.Range(0, k)];
        while (true)
        {
            yield return [.. current];
            int place = k - 1;
            while (place >= 0 && current[place] == units - k + place)
            {
                place--;
            }

            if (place < 0)
            {
                yield break;
            }

            current[place]++;
            for (int i = place + 1; i < k; i++)
            {
                current[i] = current[i - 1] + 1;
            }
        }
    }
}
