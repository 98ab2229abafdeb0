namespace Espalier.Tests.Data;

/// <summary>Finds data sets in the shared folder, which is laid out as a hub cache.</summary>
internal static class HubFixture
{
    /// <summary>The snapshot of a data set; skips the test where there is none.</summary>
    public static string Resolve(string id) => TestPaths.RequireShared($"hub/datasets--{id.Replace("/", "--")}/snapshots/local");
}
