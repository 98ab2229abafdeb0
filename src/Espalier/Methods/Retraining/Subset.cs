namespace Espalier.Methods.Retraining;

/// <summary>Which part of a pruned network is trained; parts add up.</summary>
[Flags]
public enum Subset
{
    /// <summary>Nothing; refused.</summary>
    None = 0,

    /// <summary>Every bias there is, those of norms included.</summary>
    Biases = 1,

    /// <summary>Gain and shift of every norm.</summary>
    Norms = 2,

    /// <summary>A LoRA on the language-model head, which is dense, so folding it in is harmless. Skipped where the head is tied to the token table, and in layer-wise reconstruction.</summary>
    Head = 4,

    /// <summary>Every parameter, with the masks kept: the baseline that PERP is measured against.</summary>
    Full = 8,

    /// <summary>Plain LoRA on every pruned linear map; it cannot be folded into pruned weights.</summary>
    Lora = 16,

    /// <summary>LoRA whose part outside the mask is thrown away when it is folded in.</summary>
    LoraPrune = 32,

    /// <summary>LoRA masked in every forward pass; folding it in is exact.</summary>
    MaskLora = 64,

    /// <summary>A low-rank factor that multiplies the weights; folding it in is exact.</summary>
    ScaleLora = 128,
}
