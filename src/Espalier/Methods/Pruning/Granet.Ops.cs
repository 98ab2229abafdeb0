using System.Globalization;
using Espalier.Catalogue;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Granet
{
    [ParityOp("granet.erk_init")]
    internal static IReadOnlyDictionary<string, Tensor> ErkInitOp(ParityCase c)
    {
        IReadOnlyList<double> densities = ErkDensities([.. c.Parameter<long[][]>("shapes")], c.Parameter<double>("density"));
        var result = new Dictionary<string, Tensor> { ["density"] = tensor(densities.ToArray()) };
        foreach ((int i, Tensor u) in c.Numbered("u").Index())
        {
            result[Numbered("mask", i)] = u.lt(densities[i]).to(ScalarType.Float32);
        }

        return result;
    }

    [ParityOp("granet.density_schedule")]
    internal static IReadOnlyDictionary<string, Tensor> DensityScheduleOp(ParityCase c)
    {
        GranetSchedule schedule = ScheduleOf(c);
        (long Step, double? Rate)[] events = [.. Enumerable.Range(1, c.Parameter<int>("total_steps")).Select(s => ((long)s, schedule.Changes(s) ? schedule.PruneRate(s) : null)).Where(e => e.Item2 is not null)];
        return new Dictionary<string, Tensor>
        {
            ["steps"] = tensor(events.Select(e => e.Step).ToArray(), ScalarType.Int64),
            ["prune_rate"] = tensor(events.Select(e => e.Rate!.Value).ToArray(), ScalarType.Float64),
        };
    }

    [ParityOp("granet.regrow_rate")]
    internal static IReadOnlyDictionary<string, Tensor> RegrowRateOp(ParityCase c)
    {
        int steps = c.Parameter<int>("T_max");
        double start = c.Parameter<double>("prune_rate"), end = c.Parameter("eta_min", 0.005);
        return new Dictionary<string, Tensor> { ["rate"] = tensor(Enumerable.Range(1, steps).Select(t => GranetSchedule.RegrowRate(start, t, steps, end)).ToArray(), ScalarType.Float64) };
    }

    [ParityOp("granet.gradual_prune")]
    internal static IReadOnlyDictionary<string, Tensor> GradualPruneOp(ParityCase c)
    {
        var layers = new Layers(c);
        layers.Prune(ScheduleOf(c).Validate(), c.Parameter<long>("step"));
        return layers.Result();
    }

    [ParityOp("granet.neuroregenerate")]
    internal static IReadOnlyDictionary<string, Tensor> NeuroregenerateOp(ParityCase c)
    {
        var layers = new Layers(c);
        long[] grown = layers.Regenerate(c.Numbered("grad"), c.Parameter<double>("prune_rate"));
        Dictionary<string, Tensor> result = layers.Result();
        result["n_regrown"] = tensor(grown, ScalarType.Int64);
        return result;
    }

    [ParityOp("granet.train_step")]
    internal static IReadOnlyDictionary<string, Tensor> TrainStepOp(ParityCase c)
    {
        double rate = c.Parameter<double>("lr"), momentum = c.Parameter<double>("momentum"), decay = c.Parameter("weight_decay", 0.0);
        GranetSchedule schedule = ScheduleOf(c).Validate();
        var layers = new Layers(c);
        IReadOnlyList<Tensor> gradients = c.Numbered("grad");
        layers.Descend(gradients, rate, momentum, decay);
        Tensor bias = c.Input("bias") - (rate * (c.Input("gbias") + (decay * c.Input("bias"))));
        long s = c.Parameter<long>("step_before") + 1;
        if (schedule.Changes(s))
        {
            layers.Prune(schedule, s);
            layers.Regenerate(gradients, GranetSchedule.RegrowRate(c.Parameter<double>("prune_rate"), s, c.Parameter<long>("regrow_T_max")));
        }

        Dictionary<string, Tensor> result = layers.Result();
        result["bias"] = bias;
        return result;
    }

    private static GranetSchedule ScheduleOf(ParityCase c)
    {
        double length = c.Parameter<double>("iters_per_epoch");
        return new GranetSchedule(
            c.Parameter<double>("init_density"), c.Parameter<double>("final_density"), c.Parameter<double>("init_prune_epoch") * length, c.Parameter<double>("final_prune_epoch") * length, c.Parameter<int>("update_frequency"));
    }

    private static string Numbered(string name, int i) => string.Create(CultureInfo.InvariantCulture, $"{name}{i}");

    /// <summary>The layers of a case: weights, masks and momentum, changed in place as training changes them.</summary>
    private sealed class Layers(ParityCase c)
    {
        private readonly Tensor[] _weights = [.. c.Numbered("w").Select(w => w.clone())];
        private readonly Tensor[] _keep = [.. c.Numbered("mask").Select(m => m.ne(0))];
        private readonly Tensor[] _momentum = [.. c.Numbered("mom").Select(m => m.clone())];

        public void Descend(IReadOnlyList<Tensor> gradients, double rate, double momentum, double decay)
        {
            for (int i = 0; i < _weights.Length; i++)
            {
                _momentum[i].mul_(momentum).add_(gradients[i] + (decay * _weights[i]));
                _weights[i].add_(_momentum[i], -rate);
                Mask(i);
            }
        }

        public void Prune(GranetSchedule schedule, long step)
        {
            if (schedule.PruneRate(step) is { } rate)
            {
                foreach ((int i, Tensor keep) in GradualPrune(_weights, rate).Index())
                {
                    _keep[i] = keep;
                    Mask(i);
                }
            }
        }

        public long[] Regenerate(IReadOnlyList<Tensor> gradients, double rate)
        {
            var grown = new long[_weights.Length];
            for (int i = 0; i < grown.Length; i++)
            {
                (_keep[i], grown[i]) = Granet.Regenerate(_weights[i], _keep[i], gradients[i], rate);
                Mask(i);
            }

            return grown;
        }

        public Dictionary<string, Tensor> Result()
        {
            var result = new Dictionary<string, Tensor>();
            for (int i = 0; i < _weights.Length; i++)
            {
                result[Numbered("w", i)] = _weights[i];
                result[Numbered("mask", i)] = _keep[i].to(ScalarType.Float32);
                result[Numbered("mom", i)] = _momentum[i];
            }

            return result;
        }

        private void Mask(int i)
        {
            using Tensor pruned = _keep[i].logical_not();
            _weights[i].masked_fill_(pruned, 0);
            _momentum[i].masked_fill_(pruned, 0);
        }
    }
}
