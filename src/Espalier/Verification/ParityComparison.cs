using System.Globalization;
using static TorchSharp.torch;

namespace Espalier.Verification;

/// <summary>
/// Compares one output with its reference: |ours − theirs| &lt;= atol + rtol·|theirs| everywhere, integers and booleans
/// exactly, NaN only against NaN, an infinity only against the same one; a scalar may have no or one dimension.
/// </summary>
internal static class ParityComparison
{
    /// <summary>Says what differs, in one line; null when nothing does.</summary>
    /// <param name="name">The output's name.</param>
    /// <param name="ours">What came out.</param>
    /// <param name="theirs">The reference.</param>
    /// <param name="rtol">The relative tolerance.</param>
    /// <param name="atol">The absolute tolerance.</param>
    public static (string? Difference, double LargestError) Compare(string name, Tensor ours, Tensor theirs, double rtol, double atol)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        bool scalars = ours.numel() == 1 && theirs.numel() == 1 && ours.dim() <= 1 && theirs.dim() <= 1;
        if (!scalars && !ours.shape.AsSpan().SequenceEqual(theirs.shape))
        {
            return ($"{name} has the shape {Shape(ours)}, the reference {Shape(theirs)}", double.NaN);
        }

        if (theirs.numel() == 0)
        {
            return (null, 0);
        }

        bool exact = !theirs.is_floating_point() && !theirs.is_complex();
        if (exact && ours.is_complex())
        {
            return ($"{name} is complex, the reference is {theirs.dtype}", double.NaN);
        }

        Tensor a = Flat(ours, theirs.is_complex()), b = Flat(theirs, ours.is_complex());
        if (exact && !ours.is_floating_point())
        {
            // Int64 differences are exact where float64 would round.
            (a, b) = (ours.detach().cpu().reshape(-1).to(ScalarType.Int64), theirs.detach().cpu().reshape(-1).to(ScalarType.Int64));
        }

        // Equal values pass whatever they are (an infinity against itself), and a NaN against a NaN.
        Tensor same = a.eq(b).logical_or(a.ne(a).logical_and(b.ne(b)));
        Tensor error = (a - b).abs().to(ScalarType.Float64).masked_fill(same, 0);
        Tensor allowed = exact ? zeros_like(error) : b.abs() * rtol + atol;
        Tensor finite = allowed.isfinite().logical_and(error.isfinite());
        Tensor fails = finite.logical_and(error <= allowed).logical_or(same).logical_not();
        Tensor worst = error.nan_to_num(double.MaxValue, double.MaxValue, double.MaxValue).masked_fill(fails.logical_not(), -1);
        double largest = error.max().item<double>();
        long wrong = fails.sum().item<long>();
        if (wrong == 0)
        {
            return (null, largest);
        }

        long at = worst.argmax().item<long>();
        return (string.Create(CultureInfo.InvariantCulture,
            $"{name} differs at {wrong} of {theirs.numel()}: largest error {error[at].item<double>():0.###e+0} at {Index(at, theirs.shape)}, ours {Number(a[at])}, reference {Number(b[at])}, allowed {allowed[at].item<double>():0.###e+0}"), largest);
    }

    private static Tensor Flat(Tensor t, bool complex) =>
        t.detach().cpu().reshape(-1).to(complex || t.is_complex() ? ScalarType.ComplexFloat64 : ScalarType.Float64);

    private static string Number(Tensor value) => value.is_complex()
        ? string.Create(CultureInfo.InvariantCulture, $"{value.real.item<double>():G7}{value.imag.item<double>():+0.######;-0.######}i")
        : value.to(ScalarType.Float64).item<double>().ToString("G9", CultureInfo.InvariantCulture);

    private static string Shape(Tensor t) => $"[{string.Join(", ", t.shape)}]";

    private static string Index(long flat, long[] shape)
    {
        var index = new long[shape.Length];
        for (int d = shape.Length - 1; d >= 0; d--)
        {
            (flat, index[d]) = Math.DivRem(flat, shape[d]);
        }

        return $"[{string.Join(", ", index)}]";
    }
}
