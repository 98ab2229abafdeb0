using Espalier.Runtime;

namespace Espalier.Methods.Retraining;

/// <summary>How many parameters PERP's subsets have in a model of a given shape, without building it.</summary>
/// <param name="Total">All parameters; a tied head counts once.</param>
/// <param name="Prunable">Weights of the blocks' linear maps.</param>
/// <param name="Biases">All biases, those of LayerNorms included.</param>
/// <param name="Norms">Gains and shifts of the norms.</param>
/// <param name="BiasesAndNorms">Their union: shifts of LayerNorms count once.</param>
/// <param name="Lora">r·Σ(in + out) over the blocks' linear maps.</param>
/// <param name="HeadLora">r·(hidden + vocabulary).</param>
public sealed record TrainableCounts(long Total, long Prunable, long Biases, long Norms, long BiasesAndNorms, long Lora, long HeadLora)
{
    /// <summary>Biases, norms and both kinds of adapter.</summary>
    public long All => BiasesAndNorms + Lora + HeadLora;

    /// <summary>OPT with norms before the layers: biases everywhere, two LayerNorms a block and one at the end, a tied head, positions + 2 learned positions.</summary>
    public static TrainableCounts Opt(long hidden, long layers, long ffn, long vocab, long positions, long rank)
    {
        RequirePositive((nameof(hidden), hidden), (nameof(layers), layers), (nameof(ffn), ffn), (nameof(vocab), vocab), (nameof(positions), positions), (nameof(rank), rank));
        long prunable = layers * (4 * hidden * hidden + 2 * hidden * ffn);
        long linearBiases = layers * (5 * hidden + ffn);
        long norms = 2 * hidden * (2 * layers + 1), shifts = norms / 2;
        return new TrainableCounts(
            Total: vocab * hidden + (positions + 2) * hidden + prunable + linearBiases + norms,
            Prunable: prunable,
            Biases: linearBiases + shifts,
            Norms: norms,
            BiasesAndNorms: linearBiases + norms,
            Lora: rank * layers * (4 * 2 * hidden + 2 * (hidden + ffn)),
            HeadLora: rank * (hidden + vocab));
    }

    /// <summary>Llama: no biases, two RMSNorms a block and one at the end, gate, up and down projections, k and v of width <paramref name="keyValue"/>.</summary>
    public static TrainableCounts Llama(long hidden, long layers, long ffn, long vocab, long keyValue, bool tied, long rank)
    {
        RequirePositive((nameof(hidden), hidden), (nameof(layers), layers), (nameof(ffn), ffn), (nameof(vocab), vocab), ("kv_dim", keyValue), (nameof(rank), rank));
        long prunable = layers * (2 * hidden * hidden + 2 * hidden * keyValue + 3 * hidden * ffn);
        long norms = hidden * (2 * layers + 1);
        return new TrainableCounts(
            Total: vocab * hidden * (tied ? 1 : 2) + prunable + norms,
            Prunable: prunable,
            Biases: 0,
            Norms: norms,
            BiasesAndNorms: norms,
            Lora: rank * layers * (2 * 2 * hidden + 2 * (hidden + keyValue) + 3 * (hidden + ffn)),
            HeadLora: rank * (hidden + vocab));
    }

    private static void RequirePositive(params ReadOnlySpan<(string Name, long Value)> sizes)
    {
        foreach ((string name, long value) in sizes)
        {
            EspalierException.Require(value > 0, $"A {name} of {value} is not possible; it must be at least 1.");
        }
    }
}
