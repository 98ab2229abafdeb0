using Espalier.Runtime;

namespace Espalier.Runs;

/// <summary>What a run is doing: its pieces of work that have begun and not ended, the outermost first.</summary>
internal sealed class RunningWork
{
    private readonly Lock _lock = new();
    private readonly List<Piece> _pieces = [];

    /// <summary>The share of the outermost work whose total is known, and what the innermost is.</summary>
    public (double? Share, string Doing) Now
    {
        get
        {
            lock (_lock)
            {
                double? share = _pieces.FirstOrDefault(p => p.Total > 0) is { } known ? Math.Round(Math.Clamp((double)known.Done / known.Total, 0, 1), 3) : null;
                return (share, string.Join(", ", _pieces.Select(p => p.Name).Distinct(StringComparer.Ordinal)));
            }
        }
    }

    public IProgressTask Begin(IProgressTask inner, string name, long total)
    {
        var piece = new Piece(this, inner, name, total);
        lock (_lock)
        {
            _pieces.Add(piece);
        }

        return piece;
    }

    private sealed class Piece(RunningWork work, IProgressTask inner, string name, long total) : IProgressTask
    {
        private long _done;

        public string Name => name;

        public long Total => total;

        public long Done => Interlocked.Read(ref _done);

        public void Advance(long units = 1)
        {
            Interlocked.Add(ref _done, units);
            inner.Advance(units);
        }

        public void Describe(string detail) => inner.Describe(detail);

        public void Dispose()
        {
            lock (work._lock)
            {
                work._pieces.Remove(this);
            }

            inner.Dispose();
        }
    }
}
