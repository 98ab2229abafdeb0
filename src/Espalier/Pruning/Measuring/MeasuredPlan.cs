using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Pruning.Measuring;

/// <summary>A plan whose parts have measured what they need; holds their results open as long as the plan is used.</summary>
internal sealed class MeasuredPlan : IDisposable
{
    private readonly List<Measurements> _results = [];

    private MeasuredPlan(PruningPlan plan) => Plan = plan;

    /// <summary>The plan, ready to prune by.</summary>
    public PruningPlan Plan { get; private set; }

    /// <summary>Lets the parts of a job's plan measure, one after the other: the criterion first, which an allocator may measure with.</summary>
    /// <param name="job">The job.</param>
    /// <param name="model">The dense model.</param>
    /// <param name="folder">The working folder.</param>
    /// <param name="spills">Whether hidden states go to files.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early; finished pieces stay.</param>
    public static MeasuredPlan Of(PruningJob job, StreamedModel model, string folder, bool spills, IProgressSink progress, CancellationToken cancellation)
    {
        var measured = new MeasuredPlan(job.Plan);
        try
        {
            measured.Plan = measured.Plan with { Criterion = Part(measured.Plan.Criterion) };
            measured.Plan = measured.Plan with { Allocator = Part(measured.Plan.Allocator) };
            return measured;
        }
        catch
        {
            measured.Dispose();
            throw;
        }

        T Part<T>(T part)
            where T : class
        {
            if (part is not IMeasuredPart { IsMeasured: false } open)
            {
                return part;
            }

            Measurements results = Measure(open, job with { Plan = measured.Plan }, model, folder, spills, progress, cancellation);
            measured._results.Add(results);
            return (T)open.With(results);
        }
    }

    /// <summary>Lets one part measure.</summary>
    public static Measurements Measure(IMeasuredPart part, PruningJob job, StreamedModel model, string folder, bool spills, IProgressSink progress, CancellationToken cancellation)
    {
        string word = PruningPlan.NameOf(part);
        var results = new Measurements(folder, word);
        progress.Say($"{word} looks at the dense model first.");
        using (NewDisposeScope())
        {
            part.Measure(new MeasuringContext
            {
                Model = model, Plan = job.Plan, Calibration = job.Calibration, Device = job.Device, Results = results,
                Folder = folder, Spills = spills, Progress = progress, Cancellation = cancellation,
            });
        }

        NativeMemory.Trim();
        return results;
    }

    /// <inheritdoc/>
    public void Dispose() => _results.ForEach(r => r.Dispose());
}
