namespace Espalier.Models;

/// <summary>Mistral (Jiang et al. 2023): Llama with a sliding window; a query sees the last <c>sliding_window</c> tokens, its own included.</summary>
internal sealed class Mistral : Llama
{
    public override string ModelType => "mistral";

    // Transformers' defaults for absent fields: 8 key-value heads, a window of 4,096; an explicit null means no window.
    internal override ModelConfig ReadConfig(ConfigFields fields)
    {
        fields.Optional("sliding_window");
        return ReadConfig(fields, defaultHeadDim: null, defaultKeyValueHeads: 8);
    }

    internal override string? ReaderBiasField(bool attention) => null;

    protected internal override Traits TraitsOf(ModelConfig c, int index) =>
        new(Window: c.Fields.Optional("sliding_window") ?? (c.Fields.Mentions("sliding_window") ? null : 4096));
}
