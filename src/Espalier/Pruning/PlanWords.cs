using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;

namespace Espalier.Pruning;

/// <summary>Changes of a plan's words from outside the file: what flags and <c>--set</c> do.</summary>
public static class PlanWords
{
    // A part stands in a plan as one word, or as a map of its method and its options.
    private static readonly string[] parts = ["prune.criterion", "prune.pattern", "prune.allocator", "prune.repair", "quantise", "retrain"];

    /// <summary>The built systems that can stand as a part of a plan; null for a word that is no part.</summary>
    /// <param name="part">criterion, allocator, repair, quantiser, retraining, sparse-training, vision or optimizer (of <c>espalier train</c>), or adaptation (of <c>espalier adapt</c>).</param>
    public static IReadOnlyList<CatalogueEntry>? Systems(string part)
    {
        MethodCatalogue all = MethodCatalogue.Default;
        return part.Trim().ToLowerInvariant() switch
        {
            "criterion" => all.Supplying<ICriterion>(),
            "allocator" => [.. all.Supplying<IAllocator>().Union(all.Supplying<IUnitAllocator>())],
            "repair" => [.. all.Supplying<IRepair>().Union(all.Supplying<IBlockRepair>())],
            "quantiser" => all.Supplying<IWeightQuantiser>(),
            "retraining" => all.Supplying<IRetraining>(),
            "sparse-training" => all.Supplying<ISparseTraining>(),
            "optimizer" or "optimiser" => all.Supplying<IOptimizerMethod>(),
            "vision" => all.Supplying<IVisionMethod>(),
            "adaptation" => all.Supplying<IAdaptation>(),
            _ => null,
        };
    }

    /// <summary>The plan in a file (*.yaml), or one that says nothing but the model.</summary>
    /// <param name="word">A plan's path, a model's folder or a hub id.</param>
    public static PlanFile Start(string word) =>
        IsPlan(word) ? PlanFile.Read(word) : PlanFile.Empty.With("model", word);

    /// <summary>The method of a name, or of a file (*.yaml) with its <c>method</c> and options.</summary>
    /// <typeparam name="T">What it must be: a sparse training, or one method alone.</typeparam>
    /// <param name="word">"granet", or the path of such a file.</param>
    /// <param name="assignments">Options as NAME=VALUE; they win over the file's.</param>
    /// <exception cref="EspalierException">For unknown names and options, and values that are not possible.</exception>
    public static T Method<T>(string word, IEnumerable<string> assignments)
        where T : class
    {
        bool file = IsPlan(word);
        PlanFile plan = assignments.Aggregate(file ? PlanFile.Read(word) : PlanFile.Empty.With("method", word), Set);
        EspalierException.Require(plan.At("method") is string { Length: > 0 }, $"{plan.Origin} names no method; write for example 'method: granet' and its options below.");
        var options = plan.Values.Where(v => !v.Key.Equals("method", StringComparison.OrdinalIgnoreCase)).ToDictionary(v => v.Key, v => v.Value);
        try
        {
            return MethodCatalogue.Default.Create<T>((string)plan.At("method")!, options);
        }
        catch (EspalierException fault) when (file)
        {
            throw new EspalierException($"{plan.Origin}: {fault.Message}", fault);
        }
    }

    /// <summary>Puts a value under a word; a part that was given by its name alone ("gblm") becomes a map with that <c>method</c>.</summary>
    /// <param name="plan">The plan.</param>
    /// <param name="path">The word with those above it ("prune.allocator.levels").</param>
    /// <param name="value">Its value.</param>
    /// <exception cref="EspalierException">When a word on the way is no part and holds no map, or names several parts.</exception>
    public static PlanFile Put(PlanFile plan, string path, string value)
    {
        string? part = parts.FirstOrDefault(p => path.Replace('-', '_').StartsWith(p + ".", StringComparison.OrdinalIgnoreCase));
        if (part is not null && plan.At(part) is string method)
        {
            EspalierException.Require(!method.Contains(','), $"'{part}' is '{method}', several parts, so it is not clear whose '{path[(part.Length + 1)..]}' is meant; write them as a list of maps in a plan (*.yaml).");
            plan = plan.With(part, new Dictionary<string, object?> { ["method"] = method });
        }

        return plan.With(path, value);
    }

    /// <summary>Carries out <c>PATH=VALUE</c>, for example <c>prune.allocator.levels=20</c>.</summary>
    /// <param name="plan">The plan.</param>
    /// <param name="assignment">The word, an equals sign, the value; a list's items apart by commas.</param>
    /// <exception cref="EspalierException">For another form, and what <see cref="Put"/> refuses.</exception>
    public static PlanFile Set(PlanFile plan, string assignment)
    {
        int equals = assignment.IndexOf('=', StringComparison.Ordinal);
        string path = equals < 0 ? "" : assignment[..equals].Trim();
        EspalierException.Require(path.Length > 0 && path.Split('.').All(w => w.Trim().Length > 0),
            $"'{assignment}' sets nothing; write a word of the plan, an equals sign and the value, for example --set prune.allocator.levels=20.");
        return Put(plan, path, assignment[(equals + 1)..].Trim());
    }

    private static bool IsPlan(string word) => word.EndsWith(".yaml", StringComparison.OrdinalIgnoreCase) || word.EndsWith(".yml", StringComparison.OrdinalIgnoreCase);
}
