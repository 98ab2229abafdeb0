namespace Espalier.Checkpoints;

/// <summary>The few calls by which files are written. Tests put a layer here that fails at the k-th call.</summary>
internal interface IFileLayer
{
    /// <summary>Creates a file that must not exist yet, closed to others, with room for <paramref name="length"/> bytes.</summary>
    Stream Create(string path, long length);

    /// <summary>Returns when what was written lies on the disk and not only in the system's memory.</summary>
    void Flush(Stream stream);

    /// <summary>Renames a file over another in one step.</summary>
    void Replace(string from, string to);

    /// <summary>Gives a file a second name.</summary>
    void Link(string existing, string name);

    /// <summary>Deletes a file; a missing one is no fault.</summary>
    void Delete(string path);

    /// <summary>Returns when the names in a folder lie on the disk.</summary>
    void SyncFolder(string folder);
}
