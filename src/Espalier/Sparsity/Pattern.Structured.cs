using System.Globalization;
using Espalier.Runtime;
using Kinds = Espalier.Sparsity.Units;

namespace Espalier.Sparsity;

public abstract partial record Pattern
{
    /// <summary>Whole units go: see <see cref="Structured"/>. How many: a share of the blocks' parameters, or target sizes.</summary>
    public sealed record StructuredPattern : Pattern
    {
        /// <summary>Neurons that a block keeps at least (all, where it has fewer).</summary>
        public const int LeastNeurons = 8;

        /// <summary>Which units a share is taken from: heads and neurons (default), heads, neurons, channels, or layers. Target sizes say it themselves.</summary>
        public Units? Units { get; init; }

        /// <summary>The width of the residual stream to end with; null leaves it.</summary>
        public int? Hidden
        {
            get;
            init => field = AtLeastOne(value, "hidden");
        }

        /// <summary>The neurons that every block ends with; null leaves them.</summary>
        public int? Neurons
        {
            get;
            init => field = AtLeastOne(value, "neurons");
        }

        /// <summary>The query heads that every block ends with: whole key-value groups; null leaves them.</summary>
        public int? Heads
        {
            get;
            init => field = AtLeastOne(value, "heads");
        }

        /// <summary>The key-value heads that every block ends with, in place of <see cref="Heads"/>; null leaves them.</summary>
        public int? KeyValueHeads
        {
            get;
            init => field = AtLeastOne(value, "key_value_heads");
        }

        /// <summary>The decoder blocks to end with; null leaves them.</summary>
        public int? Layers
        {
            get;
            init => field = AtLeastOne(value, "layers");
        }

        /// <summary>
        /// Widths (neurons, channels) that follow from a share are rounded to the nearest multiple of this; 1 rounds nothing.
        /// Null (default): 64 from a dense width of 1,024 on, 16 from 256 on, else 8. Sizes given with it must be multiples.
        /// </summary>
        public int? Round
        {
            get;
            init => field = AtLeastOne(value, "round");
        }

        /// <summary>All blocks end alike, so that any program loads the result. Default false: a criterion's own allocator may give blocks different widths.</summary>
        public bool Uniform { get; init; }

        /// <summary>The share of the decoder blocks' parameters to remove; null with target sizes.</summary>
        public double? Share { get; internal init; }

        /// <inheritdoc/>
        public override double Sparsity => Share ?? 0;

        /// <summary>Whether target sizes are given instead of a share.</summary>
        public bool HasSizes => (Hidden ?? Neurons ?? Heads ?? KeyValueHeads ?? Layers) is not null;

        /// <summary>The units that are cut.</summary>
        public Units Cuts => !HasSizes
            ? Units ?? (Kinds.Heads | Kinds.Neurons)
            : (Heads is null && KeyValueHeads is null ? 0 : Kinds.Heads) | (Neurons is null ? 0 : Kinds.Neurons)
              | (Hidden is null ? 0 : Kinds.Channels) | (Layers is null ? 0 : Kinds.Layers);

        /// <summary>A width as it is rounded: the nearest multiple, at least one of them and at most the dense width.</summary>
        /// <param name="width">The width that the share gives.</param>
        /// <param name="dense">The dense width.</param>
        public int Rounded(double width, int dense)
        {
            int multiple = MultipleFor(dense);
            return (int)Math.Min(dense, Math.Max(1, Math.Floor((width / multiple) + 0.5)) * multiple);
        }

        /// <summary>What a width is rounded to a multiple of.</summary>
        /// <param name="dense">The dense width.</param>
        public int MultipleFor(int dense) => Round ?? (dense >= 1024 ? 64 : dense >= 256 ? 16 : 8);

        /// <inheritdoc/>
        public override string ToString()
        {
            string[] parts =
            [
                .. HasSizes ? Array.Empty<string>() : [string.Join("+", Enum.GetValues<Units>().Where(u => u is not 0 && Cuts.HasFlag(u)).Select(u => u.ToString().ToLowerInvariant()))],
                .. new (string Word, int? Value)[] { ("hidden", Hidden), ("neurons", Neurons), ("heads", Heads), ("key_value_heads", KeyValueHeads), ("layers", Layers), ("round", Round) }
                    .Where(p => p.Value is not null).Select(p => string.Create(CultureInfo.InvariantCulture, $"{p.Word} {p.Value}")),
                .. Uniform ? ["uniform"] : Array.Empty<string>(),
            ];
            return $"structured ({string.Join(", ", parts)})";
        }

        internal StructuredPattern With(double? sparsity)
        {
            EspalierException.Require(sparsity is null or (> 0 and < 1),
                string.Create(CultureInfo.InvariantCulture, $"A sparsity of {sparsity} is not possible for the pattern 'structured'; it is the share of the blocks' parameters removed, between 0 and 1."));
            EspalierException.Require(sparsity is not null || HasSizes, "The pattern 'structured' needs a sparsity, for example 0.2, or target sizes (hidden, neurons, heads, key_value_heads, layers).");
            EspalierException.Require(sparsity is null || !HasSizes, "The pattern 'structured' has target sizes and a sparsity; leave one of them out.");
            EspalierException.Require(!HasSizes || Units is null, "Target sizes say themselves which units are cut; leave the units out.");
            EspalierException.Require(Heads is null || KeyValueHeads is null, "Heads and key_value_heads both say how many key-value groups stay; leave one of them out.");
            EspalierException.Require(Units is null || Units is Kinds.Channels or Kinds.Layers || (Units & ~(Kinds.Heads | Kinds.Neurons)) == 0 && Units is not 0,
                "A share is taken from heads and neurons, from channels alone, or from layers alone; give target sizes (hidden, neurons, heads, layers) to cut several kinds at once.");
            foreach ((string word, int? size) in new[] { ("hidden", Hidden), ("neurons", Neurons) })
            {
                EspalierException.Require(Round is null || size is null || size % Round == 0, $"The target size {word} {size} is no multiple of round {Round}; give a multiple, or leave round out.");
            }

            return this with { Share = sparsity };
        }

        private static int? AtLeastOne(int? value, string option)
        {
            EspalierException.Require(value is null or >= 1, $"The option '{option}' of the pattern 'structured' is {value}; it must be 1 or more.");
            return value;
        }
    }
}
