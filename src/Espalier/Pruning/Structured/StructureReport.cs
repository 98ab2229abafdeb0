namespace Espalier.Pruning.Structured;

/// <summary>What was cut out of a model.</summary>
public sealed record StructureReport
{
    /// <summary>The share of the decoder blocks' parameters that was asked for; null with target sizes.</summary>
    public double? Asked { get; init; }

    /// <summary>The share that went: the rounding of widths and whole heads make the difference.</summary>
    public required double Achieved { get; init; }

    /// <summary>Parameters of the whole model before.</summary>
    public required long ParametersBefore { get; init; }

    /// <summary>And after.</summary>
    public required long ParametersAfter { get; init; }

    /// <summary>The width of the residual stream before.</summary>
    public required int HiddenBefore { get; init; }

    /// <summary>And after.</summary>
    public required int HiddenAfter { get; init; }

    /// <summary>Whether all blocks ended alike and the family's plain configuration says all: other programs load it.</summary>
    public required bool Plain { get; init; }

    /// <summary>Every block of the model that was cut.</summary>
    public required IReadOnlyList<BlockSize> Blocks { get; init; }

    /// <summary>The first unit that was cut of every kind, with all its slices.</summary>
    public IReadOnlyList<string> Cuts { get; init; } = [];

    /// <summary>How fast both models answer here; null where that was not measured.</summary>
    public SpeedComparison? Speed { get; init; }
}

/// <summary>The sizes of one block before and after.</summary>
/// <param name="Index">Its number in the model that was cut.</param>
/// <param name="Kept">Whether it is still there.</param>
/// <param name="HeadsBefore">Query heads before.</param>
/// <param name="HeadsAfter">And after; 0 where the block went.</param>
/// <param name="KeyValueHeadsBefore">Key-value heads before.</param>
/// <param name="KeyValueHeadsAfter">And after.</param>
/// <param name="NeuronsBefore">Neurons before.</param>
/// <param name="NeuronsAfter">And after.</param>
/// <param name="ParametersBefore">All parameters of the block before.</param>
/// <param name="ParametersAfter">And after.</param>
public sealed record BlockSize(
    int Index, bool Kept, int HeadsBefore, int HeadsAfter, int KeyValueHeadsBefore, int KeyValueHeadsAfter, int NeuronsBefore, int NeuronsAfter, long ParametersBefore, long ParametersAfter);
