namespace Espalier.Cli;

/// <summary>What the tool's exit codes mean; scripts rely on them.</summary>
public static class ExitCode
{
    /// <summary>Done.</summary>
    public const int Success = 0;

    /// <summary>The work was done and its answer is no: a reference case differs, a check failed.</summary>
    public const int Negative = 1;

    /// <summary>Something the user can mend: a wrong word, a damaged file, a plan that does not fit.</summary>
    public const int UserError = 2;

    /// <summary>A fault of the tool itself.</summary>
    public const int Fault = 70;

    /// <summary>Stopped by Ctrl-C.</summary>
    public const int Interrupted = 130;
}
