using Espalier.Runs;
using Espalier.Runtime;

namespace Espalier.Studio.Runs;

/// <summary>The run store, opened when it is first asked.</summary>
internal sealed class RunShelf(StudioOptions options) : IAsyncDisposable
{
    private readonly SemaphoreSlim _opening = new(1);
    private IRunStore? _store;

    /// <summary>The store.</summary>
    /// <exception cref="EspalierException">When it cannot be opened.</exception>
    public async Task<IRunStore> StoreAsync(CancellationToken cancellation = default)
    {
        if (_store is not null)
        {
            return _store;
        }

        await _opening.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            return _store ??= await RunStore.OpenAsync(options.Runs is null ? RunLocation.FromEnvironment() : RunLocation.Parse(options.Runs), cancellation).ConfigureAwait(false);
        }
        finally
        {
            _opening.Release();
        }
    }

    /// <summary>A run by its id; null where there is none.</summary>
    public async Task<RunDetails?> FindAsync(string id, CancellationToken cancellation = default) =>
        id.Length == 32 && id.All(char.IsAsciiHexDigit) ? await (await StoreAsync(cancellation).ConfigureAwait(false)).GetAsync(id, cancellation).ConfigureAwait(false) : null;

    /// <summary>A run by its id.</summary>
    /// <exception cref="EspalierException">When there is none.</exception>
    public async Task<RunDetails> GetAsync(string id, CancellationToken cancellation = default) =>
        await FindAsync(id, cancellation).ConfigureAwait(false) ?? throw new EspalierException("There is no such run in the store; the page Runs lists all.");

    /// <summary>Folders that finished runs have written models into.</summary>
    public IEnumerable<(string Folder, string Name)> Outputs()
    {
        try
        {
            IRunStore store = StoreAsync().GetAwaiter().GetResult();
            RunPage page = store.ListAsync(new RunFilter { States = [RunState.Finished], Take = 200 }).GetAwaiter().GetResult();
            return [.. page.Runs.Where(r => r.Folder.Length > 0).Select(r => (r.Folder, r.Title.Length > 0 ? r.Title : Path.GetFileName(r.Folder)))];
        }
        catch (EspalierException)
        {
            // Models are shown without a store, too.
            return [];
        }
    }

    /// <summary>The file of a run that a name stands for: one that the run has recorded, and still within its folder.</summary>
    /// <exception cref="EspalierException">When there is none.</exception>
    public static FileInfo FileOf(RunDetails run, string name)
    {
        Artefact artefact = run.Artefacts.FirstOrDefault(a => a.Name == name) ?? throw new EspalierException("The run has no such file.");
        string folder = Path.TrimEndingDirectorySeparator(Path.GetFullPath(run.Run.Folder)) + Path.DirectorySeparatorChar;
        var file = new FileInfo(Path.GetFullPath(artefact.Path));
        string real = file.ResolveLinkTarget(returnFinalTarget: true)?.FullName ?? file.FullName;
        EspalierException.Require(run.Run.Folder.Length > 0 && file.FullName.StartsWith(folder, StringComparison.Ordinal) && real.StartsWith(folder, StringComparison.Ordinal), "The file lies outside the run's folder, so the studio does not give it out.");
        EspalierException.Require(file.Exists, "The file is no longer there.");
        return file;
    }

    public async ValueTask DisposeAsync()
    {
        if (_store is not null)
        {
            await _store.DisposeAsync().ConfigureAwait(false);
        }
    }
}
