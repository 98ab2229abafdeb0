using Espalier.Runtime;
using TorchSharp.Modules;

namespace Espalier.Training;

/// <summary>Which weights carry adapters and which parameters are trained whole, from words.</summary>
public static class NetSelection
{
    /// <summary>
    /// The weights that words name: <c>all</c> (every one but the head), <c>head</c>, the end of a map's name (<c>q_proj</c>, <c>mlp.up_proj</c>), or a
    /// pattern with * (<c>model.layers.1.*</c>). A word with a ! in front takes away again.
    /// </summary>
    /// <param name="weights">The weights of the net.</param>
    /// <param name="words">The words.</param>
    /// <returns>In the net's order.</returns>
    /// <exception cref="EspalierException">When a word names nothing, or nothing is left.</exception>
    public static IReadOnlyList<NetWeight> Weights(IReadOnlyList<NetWeight> weights, IReadOnlyList<string> words)
    {
        var chosen = new HashSet<NetWeight>();
        foreach (string word in words)
        {
            bool away = word.StartsWith('!');
            NetWeight[] named = [.. weights.Where(w => Names(w, away ? word[1..] : word))];
            EspalierException.Require(named.Length > 0,
                $"No weight of this net is named by '{word}'; its maps end in {string.Join(", ", weights.Select(w => w.Module.Split('.')[^1]).Distinct().Take(12))}, or use all, head or a pattern with *.");
            if (away)
            {
                chosen.ExceptWith(named);
            }
            else
            {
                chosen.UnionWith(named);
            }
        }

        EspalierException.Require(chosen.Count > 0, $"The targets {string.Join(", ", words)} leave no weight to adapt; name some, for example all.");
        return [.. weights.Where(chosen.Contains)];
    }

    /// <summary>
    /// The parameters that words name: <c>head</c> (weight and bias), <c>biases</c>, <c>norms</c> (gains and shifts), <c>embeddings</c> is not among them;
    /// or the end of a name (<c>classifier</c>, <c>fc.weight</c>), or a pattern with *.
    /// </summary>
    /// <param name="context">The net.</param>
    /// <param name="words">The words; none gives none.</param>
    /// <returns>In the net's order.</returns>
    /// <exception cref="EspalierException">When a word names nothing.</exception>
    public static IReadOnlyList<(string Name, Parameter Value)> Parameters(AdaptationContext context, IReadOnlyList<string> words)
    {
        var norms = context.Parameters.Where(p => p.Value.dim() == 1 && p.Name.EndsWith(".weight", StringComparison.Ordinal)).Select(p => p.Name[..^".weight".Length]).ToHashSet(StringComparer.Ordinal);
        bool Named(string name, string word) => word switch
        {
            "head" => context.Head is { } head && name.StartsWith(head.Module + ".", StringComparison.Ordinal),
            "biases" => name.EndsWith(".bias", StringComparison.Ordinal),
            "norms" => norms.Contains(name[..Math.Max(0, name.LastIndexOf('.'))]),
            _ => Ends(name, word) || Ends(name[..Math.Max(0, name.LastIndexOf('.'))], word),
        };
        var chosen = new HashSet<string>(StringComparer.Ordinal);
        foreach (string word in words)
        {
            string[] named = [.. context.Parameters.Select(p => p.Name).Where(n => Named(n, word))];
            EspalierException.Require(named.Length > 0, word == "head"
                ? "The head of this net is tied to the token table and cannot be trained alone; leave head out."
                : $"No parameter of this net is named by '{word}'; use head, biases, norms, the end of a name or a pattern with *.");
            chosen.UnionWith(named);
        }

        return [.. context.Parameters.Where(p => chosen.Contains(p.Name))];
    }

    /// <summary>Whether a word names a module: it is the end of the name at a dot, or a pattern with * for all of it.</summary>
    /// <param name="name">The module's name.</param>
    /// <param name="word">The word.</param>
    public static bool Ends(string name, string word) => word.Contains('*')
        ? System.IO.Enumeration.FileSystemName.MatchesSimpleExpression(word, name, ignoreCase: false)
        : name == word || name.EndsWith("." + word, StringComparison.Ordinal);

    private static bool Names(NetWeight weight, string word) => word switch
    {
        "all" or "all-linear" => !weight.IsHead,
        "head" => weight.IsHead,
        _ => Ends(weight.Module, word),
    };
}
