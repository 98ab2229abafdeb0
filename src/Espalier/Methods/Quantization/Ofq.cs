using Espalier.Catalogue;
namespace Espalier.Methods.Quantization;

/// <summary>OFQ.</summary>
[Method("ofq", "Oscillation-free Quantization for Low-bit Vision Transformers", Family = "Quantization", Source = "Liu, Liu, Cheng, ICML 2023, arXiv 2302.02210",
    Summary = "x", Fits = "x")]
public sealed partial record Ofq
{
}
