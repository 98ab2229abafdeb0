namespace Espalier.Methods.Adaptation;

/// <summary>SNNK.</summary>
public sealed partial record Snnk
{
}
