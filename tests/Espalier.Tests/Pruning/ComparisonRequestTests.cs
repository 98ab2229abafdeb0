using Espalier.Pruning.Comparing;
using Espalier.Runtime;

namespace Espalier.Tests.Pruning;

public sealed class ComparisonRequestTests
{
    private static readonly Dictionary<string, string> nothing = [];

    [Fact]
    public void Plans_are_called_by_their_files_or_by_their_own_names_and_may_share_a_model_by_an_override()
    {
        using var files = new ComparisonFiles();
        string first = files.Plan("first", "{ criterion: wanda, sparsity: 0.5 }"), second = files.Plan("second", "{ criterion: magnitude, sparsity: 0.5 }", "name: plain one\nseed: 7\n");
        ComparisonRequest request = ComparisonRequest.Read([first, second], new Dictionary<string, string> { ["data.samples"] = "9" });
        request.Check();
        request.Plans.Select(p => p.Name).ShouldBe(["first", "plain one"]);
        request.Plans[1].FolderName.ShouldBe("plain-one");
        request.Plans.ShouldAllBe(p => p.Request.Data.Samples == 9);
    }

    [Fact]
    public void One_file_may_hold_them_all()
    {
        using var files = new ComparisonFiles();
        ComparisonRequest request = ComparisonRequest.Read([files.Study("{ name: a, prune: { sparsity: 0.5 } }", "{ name: b, prune: { sparsity: 0.5 }, retrain: { method: perp, steps: 3 } }")], nothing);
        request.Check();
        request.Seeds.ShouldBe([0, 1]);
        request.Out.ShouldBe(files.Out);
        request.Plans[1].Request.ToPlan().Retraining!.Steps.ShouldBe(3);
    }

    [Fact]
    public void What_differs_is_named_with_the_flag_that_sets_it()
    {
        using var files = new ComparisonFiles();
        string first = files.Plan("first", "{ sparsity: 0.5 }"), other = files["other.yaml"];
        File.WriteAllText(other, File.ReadAllText(first).Replace(files["model"], "some/other", StringComparison.Ordinal));
        Refused([first, other], "'first' and 'other' name different models").ShouldContain("set it with --model");
        ComparisonRequest.Read([first, other], new Dictionary<string, string> { ["model"] = "some/third" }).Check();
        File.WriteAllText(other, File.ReadAllText(first).Replace("windows: 4", "windows: 5", StringComparison.Ordinal));
        Refused([first, other], "different numbers of evaluation windows (4 and 5)").ShouldContain("--windows");
    }

    [Fact]
    public void A_comparison_that_cannot_be_made_is_refused_before_any_work()
    {
        using var files = new ComparisonFiles();
        string plan = files.Plan("plan", "{ sparsity: 0.5 }");
        Refused([plan], "at least two plans");
        Refused([plan, files.Plan("twin", "{ sparsity: 0.6 }", "name: plan\n")], "Two plans are called 'plan'");
        Refused([plan, files.Plan("folder twin", "{ sparsity: 0.6 }", "name: 'Plan'\n")], "one name for a folder");
        Refused([plan, files.Plan("wrong", "{ criterion: wandaa, sparsity: 0.5 }")], "wrong: ").ShouldContain("Did you mean 'wanda'");
        Refused([plan, files.Plan("typo", "{ sparsityy: 0.5 }")], "typo.yaml, line 3: 'prune.sparsityy' is no word of a plan");
        Refused([plan, files["missing.yaml"]], "There is no plan");
        Refused([plan, files.Study("{ name: a }")], "lists several plans itself");
        Refused([files.Study("{ name: a, prune: { sparsity: 0.5 } }", "{ name: b, prun: { sparsity: 0.5 } }")], "study.yaml, line 7: 'prun' is no word of a plan").ShouldContain("Did you mean 'prune'");
        Refused([files.Study("{ prune: { sparsity: 0.5 } }", "{ name: b, prune: { sparsity: 0.5 } }")], "'name'");
        Refused([files.Study("a.yaml", "b.yaml")], "study.yaml, line 5: 'plans' is a list of maps");
        File.WriteAllText(plan, $"model: {files["model"]}\ndata: {{ calibration: {files["text.jsonl"]} }}\nprune: {{ sparsity: 0.5 }}\n");
        string twin = files["twin.yaml"];
        File.Copy(plan, twin, overwrite: true);
        Refused([plan, twin], "no evaluation text");
    }

    private static string Refused(string[] paths, string words)
    {
        string sentence = Should.Throw<EspalierException>(() => ComparisonRequest.Read(paths, nothing).Check()).Message;
        sentence.ShouldContain(words);
        return sentence;
    }
}
