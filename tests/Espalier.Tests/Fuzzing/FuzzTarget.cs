namespace Espalier.Tests.Fuzzing;

/// <summary>A reader of files from strangers, with sound files to start from.</summary>
/// <param name="Name">Its name in figures and in the corpus.</param>
/// <param name="FileName">What the mutated file is called in the folder of a run.</param>
/// <param name="Kind">How its bytes are best mutated.</param>
/// <param name="Prepare">Writes what else the folder needs.</param>
/// <param name="Seeds">Sound files, made by the writers.</param>
/// <param name="Read">Opens the file and reads all of it.</param>
internal sealed record FuzzTarget(string Name, string FileName, FuzzKind Kind, Action<string> Prepare, Func<IEnumerable<byte[]>> Seeds, Action<string> Read);

/// <summary>What a file is made of.</summary>
internal enum FuzzKind
{
    /// <summary>Bytes.</summary>
    Binary,

    /// <summary>Text.</summary>
    Text,

    /// <summary>The length of a JSON header, the header, data; a changed header mostly gets its right length.</summary>
    SafeTensors,
}
