using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary>A plan from the words of the command line: a file or a model, with flags laid over it.</summary>
internal static class PlanWords
{
    /// <summary>The plan in a file (*.yaml), or one that says nothing but the model.</summary>
    public static PlanFile Start(string word) =>
        word.EndsWith(".yaml", StringComparison.OrdinalIgnoreCase) || word.EndsWith(".yml", StringComparison.OrdinalIgnoreCase) ? PlanFile.Read(word) : PlanFile.Empty.With("model", word);

    /// <summary>The plan with a flag's value. "retrain: perp" with --steps 200, "pattern: structured" with --round 8: the word becomes a map that names the method.</summary>
    public static PlanFile Put(PlanFile plan, string path, string value)
    {
        string part = path.StartsWith("retrain.", StringComparison.Ordinal) ? "retrain" : path.StartsWith("prune.pattern.", StringComparison.Ordinal) ? "prune.pattern" : "";
        plan = part.Length > 0 && plan.At(part) is string method ? plan.With(part, new Dictionary<string, object?> { ["method"] = method }) : plan;
        return plan.With(path, value);
    }
}
