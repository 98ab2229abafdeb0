namespace Espalier.Cli.Doctor;

/// <summary>How a check came out.</summary>
public enum Health
{
    /// <summary>As it should be.</summary>
    Ok,

    /// <summary>It works, but not as well as it could.</summary>
    Warn,

    /// <summary>Something will not work until it is mended.</summary>
    Fail,
}

/// <summary>One line of the doctor.</summary>
/// <param name="Name">What was looked at.</param>
/// <param name="Health">How it came out.</param>
/// <param name="Found">What was found.</param>
/// <param name="Advice">What to do about it; null where nothing is to be done.</param>
public sealed record Check(string Name, Health Health, string Found, string? Advice = null);
