using System.Globalization;
using Espalier.Runtime;

namespace Espalier.Methods.Retraining;

/// <summary>The sentence for a number that a retraining cannot work with.</summary>
internal static class OptionCheck
{
    /// <summary>Gives the value back where it is possible.</summary>
    /// <exception cref="EspalierException">Where it is not.</exception>
    public static T Checked<T>(T value, bool holds, string method, string what, string wanted)
    {
        EspalierException.Require(holds, string.Create(CultureInfo.InvariantCulture, $"A {what} of {value} is not possible for {method}; it must be {wanted}."));
        return value;
    }
}
