namespace Espalier.Training;

/// <summary>Ends a run after so many steps, wherever its schedule then is.</summary>
/// <param name="steps">How many, from the run's start.</param>
internal sealed class StopAfter(int steps) : ITrainingHook
{
    public string Name => "stop after";

    public void AfterStep(TrainingStep step)
    {
        if (step.Index + 1 >= steps)
        {
            step.Stop();
        }
    }
}
