using Espalier.Checkpoints;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Studio.Models;

namespace Espalier.Studio.Runs;

/// <summary>A plan as the form gives it.</summary>
/// <param name="Model">The key of a model of this machine, or an id on the hub.</param>
/// <param name="Words">Words of the plan with their values: <c>prune.sparsity</c>, <c>retrain.rank</c>, … as on the command line.</param>
/// <param name="Calibration">The key of a text of this machine, or an id on the hub; null for none.</param>
/// <param name="Evaluation">The text to measure on; null for none.</param>
/// <param name="Prompts">Texts to continue before and after.</param>
/// <param name="Title">What to call the run.</param>
/// <param name="Tags">Its tags.</param>
public sealed record PlanDraft(
    string Model, IReadOnlyDictionary<string, string> Words, string? Calibration = null, string? Evaluation = null, IReadOnlyList<string>? Prompts = null, string? Title = null, IReadOnlyList<string>? Tags = null);

/// <summary>What the check of a draft says.</summary>
/// <param name="Ok">Whether it can be started.</param>
/// <param name="Yaml">The plan as YAML; null where the words do not make one.</param>
/// <param name="Error">What is wrong; null for nothing.</param>
/// <param name="Word">The word that is wrong, where that is known.</param>
public sealed record PlanCheck(bool Ok, string? Yaml, string? Error = null, string? Word = null);

/// <summary>Turns drafts into plans. No word of a draft is taken for a path: models and texts are found by keys, the output folder is the studio's own.</summary>
internal sealed class PlanDesk(ModelShelf shelf, TextShelf texts)
{
    private const string Out = "OUT";

    // What a draft may say itself; model, texts and output folder have their own fields.
    private static readonly string[] Allowed = ["prune.", "retrain", "quantise", "data.samples", "data.length", "data.windows", "data.context", "seed", "memory"];

    /// <summary>The plan of a draft.</summary>
    /// <exception cref="EspalierException">For what does not make one.</exception>
    public PruneRequest Read(PlanDraft draft)
    {
        PlanFile plan = PlanFile.Empty.With("model", ModelOf(draft.Model)).With("out", Out);
        foreach ((string word, string value) in draft.Words.Where(w => w.Value.Length > 0).OrderBy(w => w.Key.Count(c => c == '.')))
        {
            EspalierException.Require(Allowed.Any(a => word.Equals(a, StringComparison.OrdinalIgnoreCase) || word.StartsWith(a.TrimEnd('.') + ".", StringComparison.OrdinalIgnoreCase)), $"'{word}' is no word that the studio sets.");
            EspalierException.Require(value.Length <= 2_000, $"The value of '{word}' is too long.");
            EspalierException.Require(!HubWords.IsPath(value) || HubWords.IsModel(value) || HubWords.IsData(value), $"'{word}' takes no path here; files are given in a terminal.");
            plan = PlanWords.Put(plan, word, value);
        }

        plan = draft.Calibration is { Length: > 0 } calibration ? plan.With("data.calibration", TextOf(calibration)) : plan;
        plan = draft.Evaluation is { Length: > 0 } evaluation ? plan.With("data.evaluation", TextOf(evaluation)) : plan;
        string[] prompts = [.. (draft.Prompts ?? []).Where(p => p.Trim().Length > 0)];
        EspalierException.Require(prompts.Length <= 8 && prompts.All(p => p.Length <= 2_000), "Give at most 8 texts to continue, each of at most 2,000 letters.");
        plan = prompts.Length > 0 ? plan.With("data.prompts", prompts) : plan;
        PruneRequest request = PruneRequest.Read(plan);
        PruningPlan made = request.ToPlan();
        EspalierException.Require(draft.Calibration is { Length: > 0 } || request.Data.Calibration is not null || (made.Retraining is null && made.Criterion is Methods.Pruning.Magnitude), "This plan looks at a text; choose one to calibrate on.");
        return request;
    }

    /// <summary>Whether a draft can be started, with its YAML.</summary>
    public PlanCheck Check(PlanDraft draft)
    {
        try
        {
            return new PlanCheck(true, Read(draft).ToYaml().Replace($"out: {Out}\n", "", StringComparison.Ordinal));
        }
        catch (EspalierException fault)
        {
            string sentence = fault.Message.Replace("the command line: ", "", StringComparison.Ordinal);
            return new PlanCheck(false, null, sentence, draft.Words.Keys.FirstOrDefault(w => sentence.Contains(w.Split('.')[^1], StringComparison.OrdinalIgnoreCase)));
        }
    }

    private string ModelOf(string word)
    {
        ModelCard? card = shelf.All().FirstOrDefault(m => m.Key == word);
        EspalierException.Require(card is not null || HubWords.IsModel(word), "Choose a model of the list, or give an id on the hub as org/name.");
        EspalierException.Require(card is null or { Vision: false }, "This form prunes language models; vision nets are pruned with `espalier train`.");
        return card is null ? word : shelf.FolderOf(word);
    }

    private string TextOf(string word)
    {
        TextCard? card = texts.All().FirstOrDefault(t => t.Key == word);
        EspalierException.Require(card is not null || HubWords.IsData(word), "Choose a text of the list, or give one on the hub as org/name:config:split.");
        return card?.Reference ?? word;
    }
}

/// <summary>A text that a run may read.</summary>
/// <param name="Key">What forms call it.</param>
/// <param name="Name">What people call it.</param>
/// <param name="Reference">What plans call it.</param>
internal sealed record TextCard(string Key, string Name, string Reference);

/// <summary>The texts of this machine: the shipped one and data sets in the hub's cache.</summary>
internal sealed class TextShelf
{
    // The splits that people mean by these sets; others are named in the form.
    private static readonly Dictionary<string, string[]> Splits = new(StringComparer.Ordinal)
    {
        ["Salesforce/wikitext"] = ["wikitext-2-v1:validation", "wikitext-2-v1:test", "wikitext-2-v1:train"],
        ["stanfordnlp/imdb"] = ["plain_text:train", "plain_text:test"],
    };

    /// <summary>All texts.</summary>
    public IReadOnlyList<TextCard> All()
    {
        var cards = new List<TextCard> { new("austen-train", "Jane Austen (shipped)", Assets.TrainingText), new("austen-heldout", "Jane Austen, held out (shipped)", Assets.HeldOutText) };
        string cache = HubOptions.FromEnvironment().CacheFolder;
        foreach (string folder in Directory.Exists(cache) ? Directory.EnumerateDirectories(cache, "datasets--*").Order(StringComparer.Ordinal) : Enumerable.Empty<string>())
        {
            string id = Path.GetFileName(folder)["datasets--".Length..].Replace("--", "/", StringComparison.Ordinal);
            cards.AddRange(Splits.GetValueOrDefault(id, []).Select(s => new TextCard($"{id}:{s}", $"{id}, {s.Replace(":", ", ", StringComparison.Ordinal)} (hub)", $"{id}:{s}")));
        }

        return cards;
    }
}
