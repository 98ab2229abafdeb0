namespace Espalier.Methods.Adaptation;

/// <summary>A method whose adapters Python PEFT knows: what its description of them says.</summary>
internal interface IPeftMethod
{
    /// <summary>r.</summary>
    int Rank { get; }

    /// <summary>alpha.</summary>
    double Alpha { get; }

    /// <summary>Whether the factor is alpha/√r in place of alpha/r.</summary>
    bool RankStabilised { get; }

    /// <summary>The share of inputs of A that are dropped in training.</summary>
    double Dropout => 0;

    /// <summary>What A starts as.</summary>
    LoraInit Init => LoraInit.Kaiming;

    /// <summary>The factor of B·A at a rank.</summary>
    double Factor(double rank, double alpha) => alpha / (RankStabilised ? Math.Sqrt(rank) : rank);
}
