using System.Globalization;
using Espalier.Models;
using Espalier.Runtime;
using MathNet.Numerics;

namespace Espalier.MemorySlope;

/// <summary>What was held at one moment.</summary>
/// <param name="At">Steps or cycles done.</param>
/// <param name="Tensors">Live native tensors.</param>
/// <param name="Resident">Resident memory in bytes.</param>
/// <param name="Managed">Managed memory in bytes.</param>
internal sealed record Sample(long At, long Tensors, long Resident, long Managed);

/// <summary>What a long piece of work held while it ran, and the lines through it after the first fifth.</summary>
/// <param name="Name">What was done.</param>
/// <param name="Unit">"step" or "cycle".</param>
/// <param name="Count">How many of them.</param>
internal sealed record Trail(string Name, string Unit, int Count)
{
    /// <summary>A whole run may come to hold less than this many tensors more: less than one is none.</summary>
    public const double MostTensors = 1;

    /// <summary>The share of resident memory by which it may rise over the measured part. Pages of malloc come and go by about one percent.</summary>
    public const double MostGrowth = 0.02;

    private readonly List<Sample> _samples = [];

    /// <summary>The samples.</summary>
    public IReadOnlyList<Sample> Samples => _samples;

    /// <summary>Seconds in all.</summary>
    public double Seconds { get; set; }

    /// <summary>Samples after the first fifth, in which caches fill and code is compiled.</summary>
    public IReadOnlyList<Sample> Settled => [.. _samples.Where(s => s.At > _samples[^1].At / 5)];

    /// <summary>By how many live tensors the fitted line rises over the settled part.</summary>
    public double TensorRise => Rise(s => s.Tensors);

    /// <summary>By how many bytes of resident memory the fitted line rises over the settled part.</summary>
    public double ResidentRise => Rise(s => s.Resident);

    /// <summary>By how many managed bytes the fitted line rises over the settled part.</summary>
    public double ManagedRise => Rise(s => s.Managed);

    /// <summary>Whether nothing is left behind.</summary>
    public bool IsFlat => TensorRise < MostTensors && ResidentRise < MostGrowth * Settled[0].Resident;

    /// <summary>Takes a sample, after a full collection, so that only what is really held is counted.</summary>
    public void Take(long at)
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        GC.Collect();
        _samples.Add(new Sample(at, Parameters.LiveTensors, Machine.ResidentBytes, GC.GetTotalMemory(forceFullCollection: false)));
    }

    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"{Name}: {Count} {Unit}s in {Seconds:f0} s; fitted over the last {Settled[^1].At - Settled[0].At}: {TensorRise:+0.00;-0.00;0} live tensors of {Settled[0].Tensors}, resident {ResidentRise / 1024:+0;-0;0} KiB ({100 * ResidentRise / Settled[0].Resident:+0.00;-0.00} %) of {Settled[0].Resident >> 20} MiB, managed {ManagedRise / 1024:+0;-0;0} KiB: {(IsFlat ? "flat" : "it rises")}");

    private double Rise(Func<Sample, double> of)
    {
        IReadOnlyList<Sample> settled = Settled;
        (_, double slope) = Fit.Line([.. settled.Select(s => (double)s.At)], [.. settled.Select(of)]);
        return slope * (settled[^1].At - settled[0].At);
    }
}
