namespace Espalier.Runtime;

/// <summary>
/// Something the user can mend: a wrong option, a damaged file, a model that does not fit the plan.
/// The message is one sentence (what was wrong, where, what to do) and is shown as it is, without a stack trace;
/// the command line ends with exit code 2.
/// </summary>
public sealed class EspalierException : Exception
{
    /// <summary>Makes an error from its sentence.</summary>
    /// <param name="message">What was wrong, where, and what to do about it.</param>
    public EspalierException(string message)
        : base(message)
    {
    }

    /// <summary>Makes an error from its sentence and the fault behind it.</summary>
    /// <param name="message">What was wrong, where, and what to do about it.</param>
    /// <param name="inner">The fault that caused it; shown only with <c>--verbose</c>.</param>
    public EspalierException(string message, Exception inner)
        : base(message, inner)
    {
    }

    /// <summary>Throws when <paramref name="condition"/> does not hold.</summary>
    /// <param name="condition">What must be true.</param>
    /// <param name="message">The sentence to show otherwise.</param>
    /// <exception cref="EspalierException">When the condition is false.</exception>
    public static void Require([System.Diagnostics.CodeAnalysis.DoesNotReturnIf(false)] bool condition, string message)
    {
        if (!condition)
        {
            throw new EspalierException(message);
        }
    }
}
