namespace Espalier.Runs;

/// <summary>How far a run is.</summary>
public enum RunState
{
    /// <summary>Asked for, not started.</summary>
    Queued,

    /// <summary>At work: its process lives and beats.</summary>
    Running,

    /// <summary>Ended by itself; the exit code says with which answer.</summary>
    Finished,

    /// <summary>Ended with an error.</summary>
    Failed,

    /// <summary>Stopped by its user, killed, or lost with its machine; what it had done can mostly be gone on with.</summary>
    Interrupted,
}
