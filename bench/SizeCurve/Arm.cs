using System.Globalization;
using Espalier.Methods.Pruning;
using Espalier.Pruning;
using Espalier.Sparsity;
using Espalier.Sparsity.Packed;

namespace Espalier.SizeCurve;

/// <summary>One way to make the model smaller.</summary>
/// <param name="Sparsity">The share of weights that goes.</param>
/// <param name="Type">How the kept ones are stored.</param>
/// <param name="How">"" (nothing to choose), rtn, or joint.</param>
/// <param name="Criterion">wanda or sparsegpt.</param>
internal sealed record Arm(double Sparsity, PackedType Type, string How, string Criterion)
{
    private static readonly PackedType[] Types = [PackedType.BFloat16, PackedType.Int8, PackedType.Int4];

    /// <summary>All of them: dense, then sparser and sparser, each in 16, 8 and 4 bits.</summary>
    public static IReadOnlyList<Arm> All { get; } =
    [
        .. from sparsity in (double[])[0, 0.5, 0.6, 0.7]
           from criterion in sparsity == 0 ? (string[])["dense"] : ["sparsegpt", "wanda"]
           from type in Types
           from how in type is PackedType.BFloat16 ? (string[])[""] : criterion is "wanda" ? ["rtn"] : ["rtn", "joint"]
           select new Arm(sparsity, type, how, criterion),
    ];

    /// <summary>As a row of the table is called.</summary>
    public string Name => string.Create(CultureInfo.InvariantCulture,
        $"{(Sparsity == 0 ? "dense" : $"{Criterion} {100 * Sparsity:0} %")}, {(Type is PackedType.BFloat16 ? "16 bits" : Type is PackedType.Int8 ? "8 bits" : "4 bits")}{(How.Length == 0 ? "" : How == "joint" ? ", sweep" : ", rtn")}");

    /// <summary>Whether calibration decides it, so that seeds differ.</summary>
    public bool LooksAtText => Sparsity > 0 || How == "joint";

    /// <summary>The plan.</summary>
    public PruningPlan Plan()
    {
        var sparseGpt = new SparseGpt();
        return new PruningPlan
        {
            Criterion = Criterion switch { "wanda" => new Wanda(), "sparsegpt" => sparseGpt, _ => new Magnitude() },
            Repair = Criterion == "sparsegpt" ? sparseGpt : null,
            Pattern = Pattern.Unstructured(Sparsity),
            Quantisation = How switch
            {
                "" => null,
                "rtn" => new Quantisation { Type = Type },
                _ => new Quantisation { Type = Type, Method = sparseGpt },
            },
        };
    }
}
