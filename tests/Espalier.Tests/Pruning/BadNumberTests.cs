using Espalier.Catalogue;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Pruning.Measuring;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models;
using static TorchSharp.torch;

namespace Espalier.Tests.Pruning;

/// <summary>Weights and texts that break formulas: every criterion, repair and retraining gives finite weights or says in a sentence why not.</summary>
public sealed class BadNumberTests
{
    private static readonly Dictionary<string, Action<LanguageModel>> Damages = new()
    {
        ["sound"] = _ => { },
        ["dead neurons"] = model => Each(model, (name, weight) =>
        {
            if (name.EndsWith("up_proj.weight", StringComparison.Ordinal))
            {
                weight.narrow(0, 0, 10).zero_();
            }
        }),
        ["all features zero"] = model => Each(model, (name, weight) =>
        {
            if (name.Contains("norm", StringComparison.Ordinal))
            {
                weight.zero_();
            }
        }),
        ["all weights zero"] = model => Each(model, (name, weight) =>
        {
            if (name.Contains("layers.", StringComparison.Ordinal) && weight.dim() == 2)
            {
                weight.zero_();
            }
        }),
        ["all weights equal"] = model => Each(model, (name, weight) =>
        {
            if (name.Contains("layers.", StringComparison.Ordinal) && weight.dim() == 2)
            {
                weight.fill_(0.01);
            }
        }),
        ["huge weights"] = model => Each(model, (name, weight) =>
        {
            if (name.Contains("layers.0.mlp", StringComparison.Ordinal))
            {
                weight.mul_(1e18);
            }
        }),
        ["tiny weights"] = model => Each(model, (name, weight) =>
        {
            if (name.Contains("layers.", StringComparison.Ordinal) && weight.dim() == 2)
            {
                weight.mul_(1e-30);
            }
        }),
    };

    public static TheoryData<string> Criteria => [.. MethodCatalogue.Default.Supplying<ICriterion>().Select(e => e.Slug)];

    public static TheoryData<string> Retrainings => [.. MethodCatalogue.Default.Supplying<IRetraining>().Select(e => e.Slug)];

    [Theory]
    [MemberData(nameof(Criteria))]
    public void Criteria_and_repairs_give_finite_weights_or_say_why_not(string criterion)
    {
        List<string> wrong = [];
        foreach ((string damage, Action<LanguageModel> apply) in Damages)
        {
            foreach (bool constant in damage == "sound" ? (bool[])[false, true] : [false])
            {
                using var folder = new TemporaryFolder();
                PruningJob job = Job(folder, apply, constant);
                foreach (Pattern pattern in new[] { Pattern.Unstructured(0.4), Pattern.SemiStructured(2, 4), Pattern.Structured(0.4, new() { Round = 1 }) })
                {
                    foreach (string? repair in (string?[])[null, .. MethodCatalogue.Default.Supplying<IRepair>().Select(e => e.Slug)])
                    {
                        string which = $"{damage}{(constant ? ", one token again and again" : "")}: {criterion} × {pattern} × {repair ?? "none"}";
                        if (Fault(() => Prune(job, criterion, pattern, repair)) is { } fault)
                        {
                            wrong.Add($"{which}: {fault}");
                        }
                    }
                }
            }
        }

        wrong.ShouldBeEmpty();
    }

    [Theory]
    [MemberData(nameof(Retrainings))]
    public async Task Retrainings_give_finite_weights_or_say_why_not(string retraining)
    {
        List<string> wrong = [];
        foreach ((string damage, Action<LanguageModel> apply) in Damages)
        {
            using var folder = new TemporaryFolder();
            PruningJob job = Job(folder, apply, constant: false);
            long[][] windows = job.Calibration;
            job = job with
            {
                MeasureSpeed = false,
                Plan = job.Plan with { Retraining = Small<IRetraining>(retraining) },
                RetrainingText = (batch, _) => (step, _) => stack([.. Enumerable.Range(0, batch).Select(i => tensor(windows[(step + i) % windows.Length]))]),
            };
            try
            {
                job.Plan.Validate();
                await Pruner.RunAsync(job, SilentProgress.Instance);
                using LanguageModel model = LanguageModel.Load(job.Out);
                Finite(model).ShouldBeTrue();
            }
            catch (EspalierException refused)
            {
                refused.Message.ShouldEndWith(".");
            }
            catch (Exception fault)
            {
                wrong.Add($"{damage}: {fault.GetType().Name}: {fault.Message[..Math.Min(300, fault.Message.Length)]} {fault.StackTrace?.Split('\n').FirstOrDefault(l => l.Contains("Espalier.", StringComparison.Ordinal))?.Trim()}");
            }
        }

        wrong.ShouldBeEmpty();
    }

    [Theory]
    [InlineData("no windows", "calibrat")]
    [InlineData("one token", "one token")]
    [InlineData("beyond the context", "context")]
    [InlineData("beyond the vocabulary", "vocabulary")]
    public void Texts_that_cannot_be_used_are_refused_before_any_work(string text, string says)
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Job(folder, _ => { }, constant: false);
        job = job with
        {
            Calibration = text switch
            {
                "no windows" => [],
                "one token" => [[3]],
                "beyond the context" => [new long[33]],
                _ => [[1, 2, 37]],
            },
        };
        Should.Throw<EspalierException>(() => Pruner.InMemory(job, SilentProgress.Instance)).Message.ShouldContain(says, Case.Insensitive);
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(double.PositiveInfinity)]
    [InlineData(double.NegativeInfinity)]
    public void Weights_that_are_no_numbers_are_refused_by_name(double value)
    {
        foreach (string criterion in MethodCatalogue.Default.Supplying<ICriterion>().Select(e => e.Slug))
        {
            using var folder = new TemporaryFolder();
            PruningJob job = Job(folder, model => Each(model, (name, weight) =>
            {
                if (name.EndsWith("layers.1.mlp.up_proj.weight", StringComparison.Ordinal))
                {
                    weight[3, 4] = value;
                }
            }), constant: false);
            string? fault = Fault(() => Prune(job, criterion, Pattern.Unstructured(0.4), null), mustRefuse: true);
            fault.ShouldBeNull(criterion);
        }
    }

    private static PruningJob Job(TemporaryFolder folder, Action<LanguageModel> damage, bool constant)
    {
        PruningJob job = PrunerTests.Job(folder, "llama", MethodCatalogue.Default.Create<ICriterion>("wanda"), Pattern.Unstructured(0.4));
        using LanguageModel model = TinyModels.Create("llama");
        using (no_grad())
        {
            damage(model);
        }

        TinyModels.Write(job.Folder, model.Config, model.Tensors.Select(t => (t.Name, (Tensor)t.Value)));
        return job with { Calibration = [.. job.Calibration.Take(2).Select(w => constant ? [.. w.Select(_ => 5L)] : w)] };
    }

    private static void Prune(PruningJob job, string criterion, Pattern pattern, string? repair)
    {
        using var folder = new TemporaryFolder();
        ICriterion part = Small<ICriterion>(criterion);
        var plan = new PruningPlan { Criterion = part, Pattern = pattern, Repair = repair is null ? null : repair == criterion && part is IRepair own ? own : Small<IRepair>(repair) };
        plan.Validate();
        job = job with { Plan = plan };
        if (plan.Criterion is IMeasuredPart measured)
        {
            using Measurements results = Pruner.Measure(measured, job, folder.Path, SilentProgress.Instance);
            using PrunedModel with = Pruner.InMemory(job with { Plan = plan with { Criterion = (ICriterion)measured.With(results) } }, SilentProgress.Instance);
            Require(with);
            return;
        }

        using PrunedModel pruned = Pruner.InMemory(job, SilentProgress.Instance);
        Require(pruned);
    }

    private static void Require(PrunedModel pruned)
    {
        if (!Finite(pruned.Model))
        {
            throw new InvalidOperationException("The pruned model holds weights that are no numbers.");
        }
    }

    private static string? Fault(Action work, bool mustRefuse = false)
    {
        try
        {
            work();
            return mustRefuse ? "it was taken" : null;
        }
        catch (EspalierException refused)
        {
            return refused.Message.EndsWith('.') ? null : $"no sentence: {refused.Message}";
        }
        catch (Exception fault)
        {
            return $"{fault.GetType().Name}: {fault.Message[..Math.Min(300, fault.Message.Length)]} {fault.StackTrace?.Split('\n').FirstOrDefault(l => l.Contains("at Espalier.", StringComparison.Ordinal))?.Trim()}";
        }
    }

    private static bool Finite(LanguageModel model)
    {
        using var scope = NewDisposeScope();
        return model.Tensors.All(t => t.Value.isfinite().all().item<bool>());
    }

    private static void Each(LanguageModel model, Action<string, Tensor> change)
    {
        foreach ((string name, var value) in model.Tensors)
        {
            change(name, value);
        }
    }

    // What parts measure or train is kept small.
    private static T Small<T>(string slug)
        where T : class
    {
        Dictionary<string, object?> options = slug switch
        {
            "rdprune" => new() { ["levels"] = 2, ["samples"] = 1 },
            "ecoflap" => new() { ["samples"] = 1, ["batch"] = 1 },
            _ when typeof(T) == typeof(IRetraining) => new() { ["steps"] = 2, ["batch"] = 2, ["length"] = 12 },
            _ => [],
        };
        return MethodCatalogue.Default.Create<T>(slug, options);
    }
}
