namespace Espalier.Recipes;

/// <summary>A hierarchy as links to predict: every node with each of its ancestors but the root.</summary>
/// <param name="Name">What it is.</param>
/// <param name="Nodes">How many nodes.</param>
/// <param name="Pairs">(node, ancestor), nodes from 0.</param>
internal sealed record HypernymLinks(string Name, int Nodes, IReadOnlyList<(int Node, int Ancestor)> Pairs)
{
    /// <summary>The variable that names a folder with <c>data/wn18rr</c> in it.</summary>
    public const string Variable = "ESPALIER_SHARED";

    private const string Animal = "00015388";

    private static readonly string[] relations = ["_hypernym", "_instance_hypernym"];

    /// <summary>The animals of WordNet (WN18RR: 1602 nodes) where the data are, else a tree that branches by 3.</summary>
    /// <param name="context">Says the size; smoke takes a tiny tree.</param>
    public static HypernymLinks Open(RecipeContext context)
    {
        if (context.Size is RecipeSize.Smoke)
        {
            return Tree(3);
        }

        string? root = Environment.GetEnvironmentVariable(Variable);
        string folder = Path.Combine(root ?? "", "data", "wn18rr");
        if (root is not null && File.Exists(Path.Combine(folder, "train.txt")))
        {
            return Animals(folder);
        }

        context.Progress.Warn($"WN18RR is not there (set {Variable} to a folder that holds data/wn18rr with train.txt, valid.txt and test.txt), so a tree of 1093 nodes takes its place.");
        return Tree(6);
    }

    private static HypernymLinks Animals(string folder)
    {
        var parents = new Dictionary<string, List<string>>(StringComparer.Ordinal);
        var children = new Dictionary<string, List<string>>(StringComparer.Ordinal);
        foreach (string[] triple in new[] { "train.txt", "valid.txt", "test.txt" }.SelectMany(f => File.ReadLines(Path.Combine(folder, f))).Select(l => l.Split('\t')).Where(t => t.Length == 3 && relations.Contains(t[1])))
        {
            List(parents, triple[0]).Add(triple[2]);
            List(children, triple[2]).Add(triple[0]);
        }

        string[] names = [.. Reached(Animal, children).Order(StringComparer.Ordinal)];
        var number = names.Index().ToDictionary(n => n.Item, n => n.Index, StringComparer.Ordinal);
        return new HypernymLinks("animals of WordNet", names.Length,
            [.. names.SelectMany(n => Reached(n, parents).Where(a => a != n && a != Animal && number.ContainsKey(a)).Order(StringComparer.Ordinal).Select(a => (number[n], number[a])))]);

        static List<string> List(Dictionary<string, List<string>> of, string name) => of.TryGetValue(name, out List<string>? list) ? list : of[name] = [];

        static HashSet<string> Reached(string from, Dictionary<string, List<string>> links)
        {
            var seen = new HashSet<string>(StringComparer.Ordinal) { from };
            var open = new Stack<string>([from]);
            while (open.TryPop(out string? next))
            {
                foreach (string other in links.GetValueOrDefault(next) ?? [])
                {
                    if (seen.Add(other))
                    {
                        open.Push(other);
                    }
                }
            }

            return seen;
        }
    }

    // Node i has the children 3i + 1 to 3i + 3.
    private static HypernymLinks Tree(int depth)
    {
        int nodes = ((int)Math.Pow(3, depth + 1) - 1) / 2;
        var pairs = new List<(int, int)>();
        for (int node = 1; node < nodes; node++)
        {
            for (int ancestor = (node - 1) / 3; ancestor > 0; ancestor = (ancestor - 1) / 3)
            {
                pairs.Add((node, ancestor));
            }
        }

        return new HypernymLinks($"a tree of depth {depth}", nodes, pairs);
    }
}
