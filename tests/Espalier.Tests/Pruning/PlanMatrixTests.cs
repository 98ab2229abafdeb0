using Espalier.Catalogue;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Pruning.Measuring;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Tests.Pruning;

/// <summary>Every criterion with every pattern, allocator and repair of the catalogue: exact, or refused in a sentence before any work.</summary>
public sealed class PlanMatrixTests
{
    private const double Sparsity = 0.4;

    public static TheoryData<string> Criteria =>
        [.. MethodCatalogue.Default.Supplying<ICriterion>().Select(e => e.Slug).Where(s => Part<ICriterion>(s) is not IUnitCriterion { UnitsOnly: true })];

    public static TheoryData<string> UnitCriteria => [.. MethodCatalogue.Default.Supplying<IUnitCriterion>().Select(e => e.Slug)];

    [Theory]
    [MemberData(nameof(Criteria))]
    public void Parts_go_together_with_exact_counts_or_say_why_not(string criterion)
    {
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, "llama", Part<ICriterion>(criterion), Pattern.Unstructured(Sparsity));
        job = job with { Calibration = [.. job.Calibration.Take(3)] };
        using var measured = new Shared(job, folder);
        int ran = 0;
        foreach (Pattern pattern in new[] { Pattern.Unstructured(Sparsity, Scope.Layer), Pattern.Unstructured(Sparsity, Scope.Row), Pattern.SemiStructured(2, 4) })
        {
            foreach (string allocator in MethodCatalogue.Default.Supplying<IAllocator>().Select(e => e.Slug))
            {
                foreach (string? repair in (string?[])[null, .. MethodCatalogue.Default.Supplying<IRepair>().Select(e => e.Slug)])
                {
                    ICriterion part = measured.Of(Part<ICriterion>(criterion));
                    var plan = new PruningPlan
                    {
                        Criterion = part, Pattern = pattern, Allocator = Part<IAllocator>(allocator),
                        Repair = repair is null ? null : repair == criterion && part is IRepair own ? own : Part<IRepair>(repair),
                    };
                    if (Refused(plan))
                    {
                        continue;
                    }

                    plan = plan with { Allocator = measured.Of(plan.Allocator) };
                    using PrunedModel pruned = Pruner.InMemory(job with { Plan = plan }, SilentProgress.Instance);
                    RequireExact(plan, pruned, $"{criterion} × {pattern} × {allocator} × {repair ?? "none"}");
                    ran++;
                }
            }
        }

        ran.ShouldBeGreaterThan(10);
    }

    [Theory]
    [MemberData(nameof(Criteria))]
    public async Task Retraining_keeps_the_zeros_of_every_criterion(string criterion)
    {
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, "llama", Part<ICriterion>(criterion), Pattern.Unstructured(Sparsity));
        long[][] windows = job.Calibration;
        job = job with
        {
            Plan = job.Plan with { Retraining = new Perp { Subset = Subset.Norms | Subset.MaskLora, Steps = 2, Batch = 2, Length = 12, Rank = 2 } },
            RetrainingText = (batch, _) => (step, _) => stack([.. Enumerable.Range(0, batch).Select(i => tensor(windows[(step + i) % windows.Length]))]),
        };
        PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
        report.Losses.Count.ShouldBe(2);
        foreach (LayerReport layer in report.Blocks.SelectMany(b => b.Layers))
        {
            layer.Achieved.ShouldBeGreaterThan(0.2, layer.Name);
        }

        using LanguageModel model = LanguageModel.Load(job.Out);
        IReadOnlyDictionary<string, SparsityMask> masks = SparsityMasks.Load(job.Out);
        model.Blocks.SelectMany(b => b.Linears).ShouldAllBe(l => masks[l.Name].Revived(l.Linear.Matrix.detach()) == 0);
    }

    [Theory]
    [MemberData(nameof(UnitCriteria))]
    public void Unit_criteria_go_with_every_allocator_and_bias_and_leave_a_smaller_model(string criterion)
    {
        using var folder = new TemporaryFolder();
        Pattern pattern = Pattern.Structured(Sparsity, new() { Round = 1 });
        PruningJob job = PrunerTests.Job(folder, "llama", Part<IUnitCriterion>(criterion), pattern);
        using LanguageModel dense = LanguageModel.Load(job.Folder);
        int ran = 0;
        foreach (string allocator in MethodCatalogue.Default.Supplying<IUnitAllocator>().Select(e => e.Slug))
        {
            foreach (string? repair in (string?[])[null, .. MethodCatalogue.Default.Supplying<IUnitBiasRepair>().Select(e => e.Slug)])
            {
                PruningPlan plan = job.Plan with { UnitAllocator = Part<IUnitAllocator>(allocator), Repair = repair is null ? null : Part<IRepair>(repair) };
                if (Refused(plan))
                {
                    continue;
                }

                using PrunedModel pruned = Pruner.InMemory(job with { Plan = plan }, SilentProgress.Instance);
                pruned.Masks.ShouldBeEmpty();
                double kept = Weights(pruned.Model) / (double)Weights(dense);
                kept.ShouldBeInRange(1 - Sparsity - 0.2, 1 - Sparsity + 0.2, $"{criterion} × {allocator} × {repair ?? "none"}"); // a head of the tiny model is a fifth of its block
                ran++;
            }
        }

        ran.ShouldBeGreaterThan(3);

        static long Weights(LanguageModel model) => model.Blocks.SelectMany(b => b.Linears).Sum(l => l.Linear.OutFeatures * l.Linear.InFeatures);
    }

    private static bool Refused(PruningPlan plan)
    {
        try
        {
            plan.Validate();
            return false;
        }
        catch (EspalierException refusal)
        {
            refusal.Message.ShouldEndWith(".");
            return true;
        }
    }

    private static void RequireExact(PruningPlan plan, PrunedModel pruned, string which)
    {
        if (plan.Scope is Scope.Global && plan.Pattern is Pattern.UnstructuredPattern)
        {
            pruned.Layers.Sum(l => l.Removed).ShouldBe((long)Math.Floor(pruned.Layers.Sum(l => l.Rows * l.Columns) * Sparsity), which);
            return;
        }

        foreach (LayerReport layer in pruned.Layers)
        {
            long exact = plan.Pattern is Pattern.SemiStructuredPattern ? layer.Rows * layer.Columns / 2
                : plan.Scope is Scope.Layer || plan.IsJoint ? MaskSelection.PruneCount(layer.Rows * layer.Columns, layer.Asked)
                : layer.Rows * MaskSelection.PruneCount(layer.Columns, layer.Asked);
            // A sweep chooses within blocks of columns, and its threshold takes ties along.
            long slack = plan.IsJoint && plan.Pattern is Pattern.UnstructuredPattern ? layer.Columns : 0;
            layer.Removed.ShouldBeInRange(exact - slack, exact + slack, $"{which}: {layer.Name}");
            using Tensor keep = pruned.Masks[layer.Name].ToTensor();
            using Tensor kept = keep.sum();
            ((layer.Rows * layer.Columns) - kept.item<long>()).ShouldBe(layer.Removed, which);
        }
    }

    /// <summary>What the parts of plans measured of one model, once.</summary>
    private sealed class Shared(PruningJob job, TemporaryFolder folder) : IDisposable
    {
        private readonly Dictionary<Type, Measurements> _results = [];

        public T Of<T>(T part)
            where T : class
        {
            if (part is not IMeasuredPart open)
            {
                return part;
            }

            if (!_results.TryGetValue(part.GetType(), out Measurements? results))
            {
                PruningPlan plan = job.Plan with { Criterion = part as ICriterion ?? Of(job.Plan.Criterion) };
                _results[part.GetType()] = results = Pruner.Measure(open, job with { Plan = plan }, folder.Path, SilentProgress.Instance);
            }

            return (T)open.With(results);
        }

        public void Dispose()
        {
            foreach (Measurements results in _results.Values)
            {
                results.Dispose();
            }
        }
    }

    // What parts measure is kept small.
    private static T Part<T>(string slug)
        where T : class
    {
        var options = slug switch
        {
            "rdprune" => new Dictionary<string, object?> { ["levels"] = 2, ["samples"] = 1 },
            "ecoflap" => new Dictionary<string, object?> { ["samples"] = 1, ["batch"] = 1 },
            _ => [],
        };
        return MethodCatalogue.Default.Create<T>(slug, options);
    }
}
