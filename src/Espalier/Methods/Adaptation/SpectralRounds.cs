using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// The rounds of SST over some spectral weights (card, steps 2, 5 and 6), as a hook of the training loop: every <see cref="Sst.Exchange"/> steps each weight gets its next group of active columns,
/// and after its last group is decomposed anew.
/// </summary>
/// <param name="method">The options.</param>
/// <param name="weights">The weights by their names in the loop, of which the factors are ".sst_s", ".sst_u" and ".sst_v".</param>
/// <param name="seed">What the columns are drawn from.</param>
public sealed class SpectralRounds(Sst method, IReadOnlyList<(string Name, SpectralAdapter Map)> weights, Seed seed) : ITrainingHook
{
    private readonly Round[] _rounds = [.. weights.Select(_ => new Round())];

    /// <inheritdoc/>
    public string Name => "sst rounds";

    /// <inheritdoc/>
    public void BeforeStep(TrainingStep step)
    {
        using var frozen = no_grad();
        long place = step.Index % method.Exchange;
        if (place == 0)
        {
            for (int i = 0; i < weights.Count; i++)
            {
                using var scope = NewDisposeScope();
                Exchange(i, step.Loop.Optimizer);
            }
        }

        if (step.Index >= method.Exchange && place < method.Warmup)
        {
            step.LearningRate *= (place + 1.0) / (method.Warmup + 1.0);
        }
    }

    /// <inheritdoc/>
    public void AfterBackward(TrainingStep step)
    {
        foreach ((_, SpectralAdapter map) in method.Tangent ? weights : [])
        {
            map.ProjectGradients();
        }
    }

    /// <inheritdoc/>
    public void AfterStep(TrainingStep step)
    {
        foreach ((_, SpectralAdapter map) in weights)
        {
            map.Constrain();
        }
    }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> SaveState() =>
    [
        .. weights.Zip(_rounds).SelectMany(w => new (string, Tensor)[]
        {
            ($"u.{w.First.Name}", w.First.Map.U), ($"v.{w.First.Name}", w.First.Map.V), ($"round.{w.First.Name}", tensor(w.Second.Save(), ScalarType.Int64)),
        }),
    ];

    /// <inheritdoc/>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
        for (int i = 0; i < weights.Count; i++)
        {
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            (string name, SpectralAdapter map) = weights[i];
            map.U.copy_(state[$"u.{name}"]);
            map.V.copy_(state[$"v.{name}"]);
            _rounds[i].Load([.. state[$"round.{name}"].to(ScalarType.Int64).data<long>()]);
            map.Activate(_rounds[i].Groups[_rounds[i].Place]);
        }
    }

    private void Exchange(int index, IOptimizer optimizer)
    {
        (string name, SpectralAdapter map) = weights[index];
        Round round = _rounds[index];
        if (++round.Place >= round.Groups.Count)
        {
            if (round.Number > 0 && method.Redecompose)
            {
                map.Redecompose();
                optimizer.Restart($"{name}.{SpectralAdapter.SName}");
            }

            round.Number++;
            Random random = seed.Random($"spectral round {round.Number} of {name}");
            double[] values = [.. map.S.detach().cpu().to(ScalarType.Float64).data<double>()];
            round.Groups = Sst.Partition(Sst.Probabilities(values, method.Sampling), [.. values.Select(_ => 1 - random.NextDouble())], (int)map.Rank);
            round.Place = 0;
        }

        map.Activate(round.Groups[round.Place]);
        optimizer.Restart($"{name}.{SpectralAdapter.ActiveUName}");
        optimizer.Restart($"{name}.{SpectralAdapter.ActiveVName}");
    }

    private sealed class Round
    {
        public long Number { get; set; }

        public int Place { get; set; }

        public IReadOnlyList<long[]> Groups { get; set; } = [];

        // Number, place, group size, then all columns in order.
        public long[] Save() => [Number, Place, Groups.Count == 0 ? 1 : Groups[0].Length, .. Groups.SelectMany(g => g)];

        public void Load(long[] saved) => (Number, Place, Groups) = (saved[0], (int)saved[1], [.. saved[3..].Chunk((int)saved[2])]);
    }
}
