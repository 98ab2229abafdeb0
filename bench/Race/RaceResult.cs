namespace Espalier.Race;

/// <summary>What bench/race.py writes.</summary>
/// <param name="Machine">The processor and how many of its threads there are.</param>
/// <param name="Versions">What ran.</param>
/// <param name="Quick">Whether it was a try-out with the small model only.</param>
/// <param name="Rounds">How often everything was measured.</param>
/// <param name="Bandwidth">Gigabytes per second that threads read, by the number of threads.</param>
/// <param name="Rows">Decoding.</param>
/// <param name="Prompts">Reading a prompt.</param>
/// <param name="Targets">What was to be reached; empty in a try-out.</param>
internal sealed record RaceResult(string Machine, string Versions, bool Quick, int Rounds, IReadOnlyDictionary<string, double> Bandwidth,
    IReadOnlyList<RaceRow> Rows, IReadOnlyList<PromptRow> Prompts, IReadOnlyList<RaceTarget> Targets);

/// <param name="Model">Which model.</param>
/// <param name="Contender">Who decodes it.</param>
/// <param name="Side">packed, dense or llama.cpp.</param>
/// <param name="Threads">With how many threads.</param>
/// <param name="TokensPerSecond">The median.</param>
/// <param name="Least">The slowest round.</param>
/// <param name="Most">The fastest round.</param>
/// <param name="BytesPerToken">The weights' bytes that a token reads.</param>
/// <param name="BandwidthShare">Bytes per token × tokens per second ÷ bandwidth.</param>
/// <param name="Rival">The type of llama.cpp that it competes with; null for none.</param>
/// <param name="Perplexity">Of the small real model in the same format, by the same reader; null for none.</param>
/// <param name="SpeedUp">Against that: the ratio of medians; null for none.</param>
internal sealed record RaceRow(string Model, string Contender, string Side, int Threads, double TokensPerSecond, double Least, double Most,
    long BytesPerToken, double BandwidthShare, string? Rival, double? Perplexity, double? SpeedUp);

/// <param name="Model">Which model.</param>
/// <param name="Contender">Who reads the prompt.</param>
/// <param name="Threads">With how many threads.</param>
/// <param name="Tokens">The prompt's tokens.</param>
/// <param name="TokensPerSecond">The median.</param>
/// <param name="AgainstDense">Against our dense model: the ratio of medians.</param>
internal sealed record PromptRow(string Model, string Contender, int Threads, int Tokens, double TokensPerSecond, double AgainstDense);

/// <param name="Name">What was to be reached.</param>
/// <param name="Goal">The least value.</param>
/// <param name="Reached">The measured value.</param>
internal sealed record RaceTarget(string Name, double Goal, double Reached);
