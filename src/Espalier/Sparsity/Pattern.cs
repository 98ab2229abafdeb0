using System.Globalization;
using Espalier.Runtime;

namespace Espalier.Sparsity;

/// <summary>Which weights are ranked against each other when a share of them is pruned.</summary>
public enum Scope
{
    /// <summary>What the criterion's paper uses (magnitude: layer; wanda: row).</summary>
    Default,

    /// <summary>All weights of one linear map.</summary>
    Layer,

    /// <summary>The weights of one output row.</summary>
    Row,

    /// <summary>All prunable weights of the model.</summary>
    Global,
}

/// <summary>The shapes of zeros that a plan allows. Immutable; checked on construction.</summary>
public abstract partial record Pattern
{
    private Pattern()
    {
    }

    /// <summary>The share of weights that this pattern removes, in [0, 1).</summary>
    public abstract double Sparsity { get; }

    /// <summary>Any weight may go.</summary>
    /// <param name="sparsity">The share removed, in [0, 1).</param>
    /// <param name="scope">Which weights are ranked together.</param>
    /// <exception cref="EspalierException">When the share is outside [0, 1).</exception>
    public static Pattern Unstructured(double sparsity, Scope scope = Scope.Default) => new UnstructuredPattern(sparsity, scope);

    /// <summary>Of every <paramref name="m"/> consecutive inputs of a row at most <paramref name="n"/> stay (2:4 keeps two of four).</summary>
    /// <exception cref="EspalierException">Unless 0 &lt; n &lt; m.</exception>
    public static Pattern SemiStructured(int n, int m) => new SemiStructuredPattern(n, m);

    /// <summary>Whole units go, and with them their rows and columns: the result is a smaller dense model.</summary>
    /// <param name="sparsity">The share of the parameters of the decoder blocks to remove, in (0, 1); null where <paramref name="options"/> names target sizes.</param>
    /// <param name="options">Which units, target sizes, rounding; null for heads and neurons.</param>
    /// <exception cref="EspalierException">Unless a share or sizes are given, one of them.</exception>
    public static StructuredPattern Structured(double? sparsity = null, StructuredPattern? options = null) => (options ?? new StructuredPattern()).With(sparsity);

    /// <summary>Reads <c>unstructured</c> or <c>structured</c> (with the sparsity given beside it), or <c>N:M</c>.</summary>
    /// <exception cref="EspalierException">For other words, and where an N:M pattern contradicts the sparsity given beside it.</exception>
    public static Pattern Parse(string word, double? sparsity, Scope scope = Scope.Default)
    {
        if (word == "unstructured")
        {
            EspalierException.Require(sparsity is not null, "The pattern 'unstructured' needs a sparsity, for example 0.5.");
            return Unstructured(sparsity.Value, scope);
        }

        if (word == "structured")
        {
            RequireNoScope(scope);
            return Structured(sparsity);
        }

        string[] parts = word.Split(':');
        EspalierException.Require(
            parts.Length == 2 && int.TryParse(parts[0], NumberStyles.None, CultureInfo.InvariantCulture, out _) && int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out _),
            $"'{word}' is no pattern; use unstructured, structured, or N:M such as 2:4 (two of every four weights stay).");
        var pattern = SemiStructured(int.Parse(parts[0], CultureInfo.InvariantCulture), int.Parse(parts[1], CultureInfo.InvariantCulture));
        EspalierException.Require(sparsity is null || Math.Abs(sparsity.Value - pattern.Sparsity) < 1e-9,
            string.Create(CultureInfo.InvariantCulture, $"The pattern {word} removes {pattern.Sparsity:0.####} of the weights, but the plan asks for a sparsity of {sparsity:0.####}; leave one of them out."));
        EspalierException.Require(scope is Scope.Default, $"The pattern {word} ranks weights within each group of {parts[1]}; leave the scope out.");
        return pattern;
    }

    internal static void RequireNoScope(Scope scope) => EspalierException.Require(scope is Scope.Default,
        "The pattern 'structured' ranks whole units, so a scope of weights has no meaning; leave it out, or name an allocator (uniform, global, flap).");

    /// <summary>Any weight may go: see <see cref="Unstructured"/>.</summary>
    public sealed record UnstructuredPattern : Pattern
    {
        internal UnstructuredPattern(double sparsity, Scope scope)
        {
            EspalierException.Require(sparsity is >= 0 and < 1,
                string.Create(CultureInfo.InvariantCulture, $"A sparsity of {sparsity} is not possible; it is the share of weights removed, from 0 up to but not including 1."));
            (Sparsity, Scope) = (sparsity, scope);
        }

        /// <inheritdoc/>
        public override double Sparsity { get; }

        /// <summary>Which weights are ranked together.</summary>
        public Scope Scope { get; }

        /// <inheritdoc/>
        public override string ToString() => "unstructured";
    }

    /// <summary>At most N of every M: see <see cref="SemiStructured"/>.</summary>
    public sealed record SemiStructuredPattern : Pattern
    {
        internal SemiStructuredPattern(int n, int m)
        {
            EspalierException.Require(n > 0 && n < m, $"The pattern {n}:{m} is not possible; N:M keeps N of every M weights, with 0 < N < M.");
            (N, M) = (n, m);
        }

        /// <summary>How many of each group stay.</summary>
        public int N { get; }

        /// <summary>The size of a group: consecutive inputs of one row.</summary>
        public int M { get; }

        /// <inheritdoc/>
        public override double Sparsity => (double)(M - N) / M;

        /// <inheritdoc/>
        public override string ToString() => $"{N}:{M}";
    }
}
