using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Pruning;

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
            PruningPlan plan = job.Plan;
            plan = plan with { Criterion = measured.Part(plan.Criterion, job, model, folder, spills, progress, cancellation) };
            measured.Plan = plan;
            measured.Plan = plan with { Allocator = measured.Part(plan.Allocator, job, model, folder, spills, progress, cancellation) };
            return measured;
        }
        catch
        {
            measured.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _results.ForEach(r => r.Dispose());

    private T Part<T>(T part, PruningJob job, StreamedModel model, string folder, bool spills, IProgressSink progress, CancellationToken cancellation)
        where T : class
    {
        if (part is not IMeasuredPart { IsMeasured: false } open)
        {
            return part;
        }

        string word = PruningPlan.NameOf(part);
        var results = new Measurements(folder, word);
        _results.Add(results);
        progress.Say($"{word} looks at the dense model first.");
        using (NewDisposeScope())
        {
            open.Measure(new MeasuringContext
            {
                Model = model, Plan = Plan, Calibration = job.Calibration, Device = job.Device, Results = results,
                Folder = folder, Spills = spills, Progress = progress, Cancellation = cancellation,
            });
        }

        NativeMemory.Trim();
        return (T)open.With(results);
    }
}
