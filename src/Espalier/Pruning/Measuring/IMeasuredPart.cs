namespace Espalier.Pruning.Measuring;

/// <summary>
/// A part of a plan that has to look at the dense model as a whole before the first block is pruned: gradients,
/// the output's distortion, a global importance.
/// </summary>
public interface IMeasuredPart
{
    /// <summary>Whether it holds its measurements already.</summary>
    bool IsMeasured { get; }

    /// <summary>Measures, piece by piece; a piece that <see cref="MeasuringContext.Results"/> holds already is not measured again.</summary>
    /// <param name="context">The model, the calibration text and where results go.</param>
    void Measure(MeasuringContext context);

    /// <summary>The same part with what was measured.</summary>
    /// <param name="results">What <see cref="Measure"/> saved; it outlives the part.</param>
    object With(Measurements results);

    /// <summary>How many passes of one calibration sequence through the whole model the measurement is worth, for the estimate of the time.</summary>
    /// <param name="layers">The number of prunable weights.</param>
    /// <param name="sequences">Calibration sequences.</param>
    double Passes(int layers, int sequences);
}
