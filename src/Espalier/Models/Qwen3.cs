namespace Espalier.Models;

/// <summary>Qwen3 (Yang et al. 2025): RMS norms on every query and key head; a head width of its own (128 unless given); no biases unless asked for.</summary>
internal sealed class Qwen3 : Qwen2
{
    public override string ModelType => "qwen3";

    internal override ModelConfig ReadConfig(ConfigFields fields) => Checked(ReadConfig(fields, defaultHeadDim: 128, defaultKeyValueHeads: 32));

    internal override string? ReaderBiasField(bool attention) => attention ? "attention_bias" : null;

    protected internal override Traits TraitsOf(ModelConfig c, int index)
    {
        bool bias = c.Fields.Flag("attention_bias", false);
        return new Traits(bias, bias, HeadNorms: true, Window: WindowOf(c, index));
    }
}
