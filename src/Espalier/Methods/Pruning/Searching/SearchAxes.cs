using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;

namespace Espalier.Methods.Pruning.Searching;

/// <summary>The sizes that a search may choose from, of one model: what the user named, or fractions of the model's own.</summary>
internal sealed class SearchAxes
{
    private static readonly double[] coarse = [1, 0.75, 0.5], fine = [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25];

    private readonly ModelConfig _config;
    private readonly int _queries;
    private readonly int[] _layers, _groups, _neurons, _hidden;

    /// <param name="search">What the user named.</param>
    /// <param name="config">The model.</param>
    /// <param name="ranked">What the criterion ranks: other units stay where the user names no sizes for them.</param>
    /// <exception cref="EspalierException">For sizes that the model cannot be cut to.</exception>
    public SearchAxes(SearchSection search, ModelConfig config, Units ranked)
    {
        _config = config;
        _queries = config.HeadCount / config.KeyValueHeadCount;
        EspalierException.Require(search.Heads is null || search.KeyValueHeads is null, "Heads and key_value_heads both say how many key-value groups may stay; leave one of them out.");
        foreach (int heads in search.Heads ?? [])
        {
            EspalierException.Require(heads % _queries == 0, $"{heads} heads do not divide into key-value groups of {_queries} query heads, which go together; give multiples of {_queries}.");
        }

        var rounding = new Pattern.StructuredPattern();
        _layers = Axis(search.Layers, "layers", config.LayerCount, Units.Layers, coarse, s => Whole(s));
        _groups = search.Heads is { } named ? [.. Axis(named, "heads", config.HeadCount, Units.Heads, coarse, s => Whole(s)).Select(h => h / _queries)]
            : Axis(search.KeyValueHeads, "key-value heads", config.KeyValueHeadCount, Units.Heads, coarse, s => Whole(s));
        _neurons = Axis(search.Neurons, "neurons", config.IntermediateSize, Units.Neurons, fine, s => rounding.Rounded(s, config.IntermediateSize));
        _hidden = Axis(search.Hidden, "channels", config.HiddenSize, Units.Channels, fine, s => rounding.Rounded(s, config.HiddenSize));

        int[] Axis(IReadOnlyList<int>? given, string what, int own, Units kind, double[] fractions, Func<double, int> rounded)
        {
            if (given is null)
            {
                return ranked.HasFlag(kind) ? [.. fractions.Select(f => rounded(own * f)).Distinct()] : [own];
            }

            EspalierException.Require(given.Count > 0 && given.All(n => n >= 1), $"The {what} of a search are listed one by one, each 1 or more, for example {own},{Math.Max(1, own / 2)}.");
            EspalierException.Require(given.All(n => n <= own), $"The model has {own} {what}, so {given.Max()} cannot stay; a search only makes it smaller.");
            return [.. given.Distinct()];
        }

        static int Whole(double size) => Math.Max(1, (int)Math.Round(size, MidpointRounding.AwayFromZero));
    }

    /// <summary>Every combination but the model itself, with the parameters that the cut model really has.</summary>
    public IEnumerable<MinitronCandidate> All() =>
        from layers in _layers
        from groups in _groups
        from neurons in _neurons
        from hidden in _hidden
        where (layers, groups, neurons, hidden) != (_config.LayerCount, _config.KeyValueHeadCount, _config.IntermediateSize, _config.HiddenSize)
        select new MinitronCandidate(layers, groups * _queries, neurons, hidden, Parameters(_config, layers, groups * _queries, neurons, hidden));

    /// <summary>The key-value heads of a candidate.</summary>
    public int KeyValueHeads(MinitronCandidate c) => (int)c.Heads / _queries;

    /// <summary>The sizes that change, by their words in a structured pattern.</summary>
    public IReadOnlyDictionary<string, int> Cuts(MinitronCandidate c) =>
        new (string Word, long Size, int Own)[]
        {
            ("layers", c.Layers, _config.LayerCount), ("heads", c.Heads, _config.HeadCount), ("neurons", c.FeedForward, _config.IntermediateSize), ("hidden", c.Embedding, _config.HiddenSize),
        }.Where(s => s.Size < s.Own).ToDictionary(s => s.Word, s => (int)s.Size);

    /// <summary>
    /// All parameters of a model cut to these sizes. Counted from the shapes of its parts, not by <see cref="MinitronSpace.Parameters"/>, whose
    /// norms have no biases and whose key-value heads do not change with the heads.
    /// </summary>
    /// <param name="config">The model that is cut.</param>
    /// <param name="layers">Its layers.</param>
    /// <param name="heads">Query heads of every block, in whole key-value groups.</param>
    /// <param name="neurons">The width of its feed-forward parts.</param>
    /// <param name="hidden">Its width.</param>
    public static long Parameters(ModelConfig config, int layers, int heads, int neurons, int hidden)
    {
        var block = new BlockShape(heads, heads / (config.HeadCount / config.KeyValueHeadCount), neurons);
        var size = new ModelSize(hidden, [.. Enumerable.Range(0, layers)], [.. Enumerable.Repeat(block, layers)]);
        return Architecture.For(config).ParameterCount(size.Apply(config));
    }
}
