namespace Espalier.Methods.Adaptation;

/// <summary>From which side a gradient [O, I] is projected.</summary>
public enum ProjectionSide
{
    /// <summary>From the right where O ≥ I, else from the left: the smaller basis.</summary>
    Std,

    /// <summary>From the left where O ≥ I, else from the right.</summary>
    ReverseStd,

    /// <summary>Always from the left: low = Pᵀ G, [r, I].</summary>
    Left,

    /// <summary>Always from the right: low = G Pᵀ, [O, r].</summary>
    Right,

    /// <summary>From both: low = Aᵀ G Bᵀ, [r, r].</summary>
    Full,
}
