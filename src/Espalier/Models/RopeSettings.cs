using Espalier.Runtime;

namespace Espalier.Models;

/// <summary>How rotary positions (Su et al. 2021) turn: their base, and how they are stretched to longer contexts.</summary>
/// <param name="Theta">The base θ.</param>
/// <param name="Scaling">How frequencies are scaled.</param>
/// <param name="Factor">By how much; 1 where nothing is scaled.</param>
/// <param name="LowFrequencyFactor">llama3: waves longer than OriginalPositions / this are scaled fully.</param>
/// <param name="HighFrequencyFactor">llama3: waves shorter than OriginalPositions / this stay as they are.</param>
/// <param name="OriginalPositions">llama3: the context that the model was first trained with.</param>
public sealed record RopeSettings(double Theta, RopeScaling Scaling, double Factor, double LowFrequencyFactor, double HighFrequencyFactor, int OriginalPositions)
{
    /// <summary>Reads <c>rope_theta</c> and <c>rope_scaling</c>, or the newer <c>rope_parameters</c> that holds both.</summary>
    /// <param name="fields">The config's fields.</param>
    /// <param name="maxPositions">The longest context, where llama3 scaling names no original one.</param>
    /// <param name="thetaName">The name of the base in this family.</param>
    /// <param name="defaultTheta">The base where none is given.</param>
    /// <exception cref="EspalierException">For scalings that are not supported, and faulty fields.</exception>
    internal static RopeSettings Read(ConfigFields fields, int maxPositions, string thetaName = "rope_theta", double defaultTheta = 10000)
    {
        ConfigFields? scaling = fields.Section("rope_scaling") ?? fields.Section("rope_parameters");
        double theta = fields.Number(thetaName, defaultTheta);
        theta = fields.Section("rope_parameters")?.Number("rope_theta", theta) ?? theta;
        theta = scaling?.Number("rope_theta", theta) ?? theta;
        // Configurations before 2024 say "type" where later ones say "rope_type".
        string type = scaling?.Text("rope_type", scaling.Text("type", "default")) ?? "default";
        switch (type)
        {
            case "default":
                EspalierException.Require(scaling is null || !scaling.Has("full_attention"), $"{fields.Origin}: rotary parameters that differ between kinds of layers are not supported; give one set for all of them.");
                return new RopeSettings(theta, RopeScaling.None, 1, 1, 1, maxPositions);
            case "linear":
                return new RopeSettings(theta, RopeScaling.Linear, Required(scaling!, "factor"), 1, 1, maxPositions);
            case "llama3":
                var settings = new RopeSettings(theta, RopeScaling.Llama3, Required(scaling!, "factor"), Required(scaling!, "low_freq_factor"), Required(scaling!, "high_freq_factor"),
                    scaling!.PositiveOr(maxPositions, "original_max_position_embeddings"));
                EspalierException.Require(settings.HighFrequencyFactor > settings.LowFrequencyFactor,
                    $"{scaling.Origin}: high_freq_factor must be greater than low_freq_factor.");
                return settings;
            default:
                throw new EspalierException($"{fields.Origin}: rotary scaling '{type}' is not supported; supported are default, linear and llama3. Remove the scaling to use the model within its original context.");
        }
    }

    /// <summary>The turning speeds 1/θ^(2i/d), scaled.</summary>
    /// <param name="dimensions">The rotated dimensions d of a head.</param>
    /// <returns>d / 2 speeds in radians per position.</returns>
    internal double[] Frequencies(int dimensions)
    {
        var frequencies = new double[dimensions / 2];
        for (int i = 0; i < frequencies.Length; i++)
        {
            double plain = Math.Pow(Theta, -2.0 * i / dimensions);
            frequencies[i] = Scaling switch
            {
                RopeScaling.Linear => plain / Factor,
                RopeScaling.Llama3 => Llama3(plain),
                _ => plain,
            };
        }

        return frequencies;
    }

    /// <summary>Llama 3.1: long waves are divided by the factor, short ones stay, those between are blended.</summary>
    private double Llama3(double plain)
    {
        double turns = OriginalPositions * plain / (2 * Math.PI); // original context / wavelength
        double blend = Math.Clamp((turns - LowFrequencyFactor) / (HighFrequencyFactor - LowFrequencyFactor), 0, 1);
        return ((1 - blend) * plain / Factor) + (blend * plain);
    }

    private static double Required(ConfigFields scaling, string name)
    {
        EspalierException.Require(scaling.Has(name), $"{scaling.Origin} has no '{name}', which this kind of rotary scaling needs.");
        return scaling.Number(name, 1);
    }
}

/// <summary>How rotary frequencies are scaled to a longer context.</summary>
public enum RopeScaling
{
    /// <summary>Not at all.</summary>
    None,

    /// <summary>All divided by the factor (position interpolation).</summary>
    Linear,

    /// <summary>By wavelength, as Llama 3.1 does.</summary>
    Llama3,
}
