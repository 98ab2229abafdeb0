namespace Espalier.Methods.Quantization;

/// <summary>LQ-LoRA.</summary>
public sealed partial record LqLora
{
}
