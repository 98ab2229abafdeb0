using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Merging;

public sealed partial record Sms
{
    [ParityOp("sms.phase_rate")]
    internal static IReadOnlyDictionary<string, Tensor> PhaseRateOp(ParityCase c)
    {
        (double rate, IReadOnlyList<double> cumulative) = PhaseRate(c.Parameter<double>("goal_sparsity"), c.Parameter<int>("n_phases"));
        return new Dictionary<string, Tensor> { ["per_phase"] = tensor(rate), ["cumulative"] = tensor(cumulative.ToArray()) };
    }

    [ParityOp("sms.magnitude_prune")]
    internal static IReadOnlyDictionary<string, Tensor> MagnitudePruneOp(ParityCase c)
    {
        IReadOnlyList<Tensor> weights = c.Numbered("w");
        IReadOnlyList<Tensor> masks = [.. weights.Select(w => ones(w.shape, ScalarType.Bool))];
        MagnitudeSelector selector = Word<MagnitudeSelector>(c, "selector", "global");
        var outputs = new Dictionary<string, Tensor>();
        foreach ((int round, double amount) in c.Parameter<double[]>("amounts").Index())
        {
            masks = MagnitudePruning.Next(weights, masks, amount, selector, new Seed(0));
            foreach ((int i, Tensor mask) in masks.Index())
            {
                outputs[FormattableString.Invariant($"mask{i}_round{round}")] = mask.to(ScalarType.Float32);
            }

            outputs[FormattableString.Invariant($"kept_round{round}")] = tensor(masks.Sum(m => m.sum().item<long>()));
        }

        return outputs;
    }

    [ParityOp("sms.average")]
    internal static IReadOnlyDictionary<string, Tensor> AverageOp(ParityCase c)
    {
        IReadOnlyList<double> shares = ModelSoup.Shares(c.Parameter<int>("n_models"), c.Parameter<double[]?>("soup_weights", null));
        var outputs = new Dictionary<string, Tensor>();
        foreach (string name in c.InputNames.Where(n => !n.StartsWith("mask", StringComparison.Ordinal)))
        {
            Tensor members = c.Input(name);
            EspalierException.Require(members.shape[0] == shares.Count, $"{name} has {members.shape[0]} members and not {shares.Count}.");
            outputs[name] = ModelSoup.Average([.. members.unbind()], shares, name[0] == 'w' ? c.Optional($"mask{name[1..]}") : null);
        }

        return outputs;
    }

    [ParityOp("sms.soup_metrics")]
    internal static IReadOnlyDictionary<string, Tensor> SoupMetricsOp(ParityCase c)
    {
        SoupDistances apart = ModelSoup.Distances([.. c.Input("models").unbind()]);
        return new Dictionary<string, Tensor>
        {
            ["max_l2_distance"] = tensor(apart.MaxL2), ["min_l2_distance"] = tensor(apart.MinL2), ["mean_l2_distance"] = tensor(apart.MeanL2),
            ["max_angle"] = tensor(apart.MaxAngle), ["min_angle"] = tensor(apart.MinAngle), ["mean_angle"] = tensor(apart.MeanAngle),
            ["max_barycentre_distance"] = tensor(apart.MaxToBarycentre), ["min_barycentre_distance"] = tensor(apart.MinToBarycentre),
        };
    }

    [ParityOp("sms.greedy_soup")]
    internal static IReadOnlyDictionary<string, Tensor> GreedySoupOp(ParityCase c)
    {
        Tensor X = c.Input("X"), y = c.Input("y");
        Tensor[] models = [.. c.Input("W").unbind()];
        double[] scores = [.. models.Select(Accuracy)];
        (IReadOnlyList<int> chosen, double best) = ModelSoup.Greedy(scores, some => Accuracy(Soup(some)));
        return new Dictionary<string, Tensor>
        {
            ["val_acc"] = tensor(scores), ["selected_in_order"] = tensor(chosen.Select(i => (long)i).ToArray()), ["soup"] = Soup(chosen), ["soup_acc"] = tensor(best),
        };

        double Accuracy(Tensor W) => X.matmul(W.t()).argmax(1).eq(y).to(ScalarType.Float64).mean().item<double>();

        Tensor Soup(IReadOnlyList<int> some) => ModelSoup.Average([.. some.Select(i => models[i])], [.. some.Select(_ => 1.0 / some.Count)]);
    }

    [ParityOp("sms.bn_recalibrate")]
    internal static IReadOnlyDictionary<string, Tensor> RecalibrateOp(ParityCase c)
    {
        Tensor batches = c.Input("batches").to(ScalarType.Float64);
        long channels = batches.shape[2];
        Tensor mean = zeros([channels], ScalarType.Float64), variance = ones([channels], ScalarType.Float64);
        foreach (Tensor batch in batches.unbind().Take(RecalibrationBatches((int)batches.shape[0], c.Parameter<double>("frac"))))
        {
            nn.functional.batch_norm(batch, mean, variance, training: true, momentum: c.Parameter("momentum", RecalibrationMomentum));
        }

        return new Dictionary<string, Tensor> { ["running_mean"] = mean, ["running_var"] = variance };
    }

    [ParityOp("sms.retrain_lr")]
    internal static IReadOnlyDictionary<string, Tensor> RetrainRatesOp(ParityCase c)
    {
        RetrainingSchedule kind = Word<RetrainingSchedule>(c, "kind", "LLR");
        PruningDrop? drop = kind is not RetrainingSchedule.ALLR ? null
            : new PruningDrop(c.Parameter<double>("rel_drop"), c.Parameter<double>("sparsity"), c.Parameter<double>("n_epochs_ft") / c.Parameter<double>("n_epochs"));
        RetrainingRates rates = RetrainingRates.Of(kind, c.Input("original_lr").to(ScalarType.Float64).data<double>().ToArray(), c.Parameter<int>("n_total"), drop);
        return new Dictionary<string, Tensor> { ["lr"] = tensor(rates.Values.ToArray()), ["after_warmup_lr"] = tensor(rates.Peak), ["n_warmup"] = tensor((long)rates.Warmup) };
    }

    private static T Word<T>(ParityCase c, string name, string standard)
        where T : struct, Enum
    {
        string word = c.Parameter(name, standard);
        EspalierException.Require(Enum.TryParse(word, ignoreCase: true, out T value), $"'{word}' is no {name} of {c.Op}; it has {string.Join(", ", Enum.GetNames<T>())}.");
        return value;
    }
}
