using System.Globalization;
using Espalier.Runtime;

namespace Espalier.Models;

/// <summary>How a text is continued. Checked on construction.</summary>
public sealed record GenerationOptions
{
    /// <summary>At most this many new tokens. Default 64.</summary>
    public int MaxNewTokens
    {
        get;
        init => field = Checked(value >= 1, value, $"The number of new tokens is {value}, but must be at least 1.");
    } = 64;

    /// <summary>Divides the logits before sampling; 0 always takes the most likely token (greedy), which is the default.</summary>
    public double Temperature
    {
        get;
        init => field = Checked(double.IsFinite(value) && value >= 0, value, string.Create(CultureInfo.InvariantCulture, $"The temperature is {value}, but must be 0 (greedy) or greater."));
    }

    /// <summary>Samples among this many most likely tokens; null for all of them.</summary>
    public int? TopK
    {
        get;
        init => field = Checked(value is null or >= 1, value, $"Top-k is {value}, but must be at least 1.");
    }

    /// <summary>Samples among the fewest most likely tokens whose probabilities reach this sum; 1 for all of them.</summary>
    public double TopP
    {
        get;
        init => field = Checked(value is > 0 and <= 1, value, string.Create(CultureInfo.InvariantCulture, $"Top-p is {value}, but must be greater than 0 and at most 1."));
    } = 1;

    /// <summary>The seed of the draws.</summary>
    public Seed Seed { get; init; }

    /// <summary>The tokens that end the text; null takes the model's own. The ending token is given out too.</summary>
    public IReadOnlyList<int>? EosTokenIds { get; init; }

    /// <summary>Whether keys and values are kept from step to step; off computes every step from scratch.</summary>
    public bool UseCache { get; init; } = true;

    private static T Checked<T>(bool holds, T value, string sentence)
    {
        EspalierException.Require(holds, sentence);
        return value;
    }
}
