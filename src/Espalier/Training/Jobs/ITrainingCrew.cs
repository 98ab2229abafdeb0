using Espalier.Models.Vision;
using Espalier.Runtime;

namespace Espalier.Training.Jobs;

/// <summary>Who does the trainings of a method that has several: this process, others, other machines.</summary>
public interface ITrainingCrew
{
    /// <summary>Trains nets.</summary>
    /// <param name="jobs">The trainings; each is asked for only when there is a place for it, so that never all nets are held at once.</param>
    /// <param name="states">Where what is done is kept for a run that goes on later; null keeps nothing.</param>
    /// <param name="progress">Where the progress of the trainings is told.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>The trained nets in the order of their jobs, on the devices of the jobs' nets; the caller disposes them.</returns>
    /// <exception cref="EspalierException">When a training goes wrong.</exception>
    IEnumerable<VisionModel> Train(IEnumerable<TrainingJob> jobs, TrainingStates? states, IProgressSink progress, CancellationToken cancellation = default);
}

/// <summary>Trains in this process, one net after the other.</summary>
public sealed class OneAfterTheOther : ITrainingCrew
{
    /// <summary>The one instance.</summary>
    public static OneAfterTheOther Instance { get; } = new();

    private OneAfterTheOther()
    {
    }

    /// <inheritdoc/>
    public IEnumerable<VisionModel> Train(IEnumerable<TrainingJob> jobs, TrainingStates? states, IProgressSink progress, CancellationToken cancellation = default)
    {
        foreach (TrainingJob job in jobs)
        {
            try
            {
                job.Run(states?.Next(), progress, cancellation);
            }
            catch
            {
                job.Net.Dispose();
                throw;
            }

            yield return job.Net;
        }
    }
}
