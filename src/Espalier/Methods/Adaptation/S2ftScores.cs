using Espalier.Models;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>Scores of units for S²FT's criterion-driven selection (reconstructed): one number for each unit, for each of the two maps that can be trained.</summary>
internal static class S2ftScores
{
    /// <summary>Measures the units of all structures.</summary>
    /// <param name="method">Which criterion.</param>
    /// <param name="context">The net, with an objective for activations and gradients.</param>
    /// <param name="groups">The structures.</param>
    /// <param name="weights">The weights by name.</param>
    /// <returns>For each structure and map (false the maker, true the reader) the scores of its units.</returns>
    public static Dictionary<(CoupledGroup Group, bool Second), double[]> Measure(S2ft method, AdaptationContext context, IReadOnlyList<CoupledGroup> groups, IReadOnlyDictionary<string, NetWeight> weights)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        var squares = new Dictionary<(CoupledGroup, bool), double[]>();
        void Add(CoupledGroup group, bool second, Tensor values)
        {
            double[] more = [.. values.cpu().data<double>()];
            squares[(group, second)] = squares.TryGetValue((group, second), out double[]? sum) ? [.. sum.Zip(more, (a, b) => a + b)] : more;
        }

        switch (method.Selection)
        {
            case S2ftSelection.Weight:
                foreach (CoupledGroup group in groups)
                {
                    Add(group, second: false, Squares(group, S2ftUnits.MakerOf(group), weights[S2ftUnits.MakerOf(group).Tensor].Value));
                    Add(group, second: true, Squares(group, group.Reader, weights[group.Reader.Tensor].Value));
                }

                break;
            case S2ftSelection.Gradient:
                NetWeight[] wanted = [.. groups.SelectMany(g => (string[])[S2ftUnits.MakerOf(g).Tensor, g.Reader.Tensor]).Distinct().Select(n => weights[n])];
                using (enable_grad())
                {
                    context.EachGradient(wanted, method.CalibrationBatches, (weight, gradient) =>
                    {
                        Tensor stored = weight.InStoredLayout(gradient);
                        foreach (CoupledGroup group in groups)
                        {
                            foreach (bool second in (bool[])[false, true])
                            {
                                SlicePattern pattern = second ? group.Reader : S2ftUnits.MakerOf(group);
                                if (pattern.Tensor == weight.Name)
                                {
                                    Add(group, second, Squares(group, pattern, stored));
                                }
                            }
                        }
                    });
                }

                break;
            default:
                var byReader = groups.ToDictionary(g => g.Reader.Tensor);
                context.EachInput([.. groups.Select(g => weights[g.Reader.Tensor])], method.CalibrationBatches, (weight, rows) =>
                {
                    CoupledGroup group = byReader[weight.Name];
                    Tensor values = rows.to(ScalarType.Float64).square().sum([0]).view(group.Count, -1).sum([1]);
                    Add(group, second: false, values);
                    Add(group, second: true, values);
                });
                break;
        }

        return squares.ToDictionary(s => s.Key, s => s.Value.Select(Math.Sqrt).ToArray());
    }

    /// <summary>Σ w² over each unit's slice of a tensor in stored layout, float64.</summary>
    private static Tensor Squares(CoupledGroup group, SlicePattern pattern, Tensor stored)
    {
        using var scope = NewDisposeScope();
        Tensor along = stored.detach().to(ScalarType.Float64).square().sum([1 - pattern.Axis]);
        return stack([.. Enumerable.Range(0, group.Count).Select(u => along.narrow(0, pattern.Offset + (u * pattern.Stride), pattern.Length).sum())]).MoveToOuterDisposeScope();
    }
}
