using Espalier.Models;
using Espalier.Recipes;
using Espalier.Runtime;

namespace Espalier.Tests.Recipes;

public sealed class ReproductionTests
{
    [Fact]
    public void Perp_runs_at_smoke_size_keeps_every_zero_and_a_finished_seed_is_not_run_again()
    {
        using var folder = new TemporaryFolder();
        var context = new RecipeContext { Size = RecipeSize.Smoke, Device = TorchSharp.torch.CPU, Progress = SilentProgress.Instance };
        long live = Parameters.LiveTensors;
        ReproductionReport report = Reproduction.Run("perp", context, [0], folder.Path);
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(live);
        report.Verdict.ShouldContain("not judged");
        report.Arms.Select(a => a.Arm).ShouldBe(Reproduction.For("perp").Arms);
        report.Arms.Where(a => a.Metrics.ContainsKey("revived zeros")).ShouldAllBe(a => a.Metrics["revived zeros"].Mean == 0);
        File.ReadAllText(folder["report.html"]).ShouldContain("Reproduction: perp");

        DateTime written = File.GetLastWriteTimeUtc(folder["seed-0.json"]);
        ReproductionReport again = Reproduction.Run("perp", context, [0], folder.Path);
        File.GetLastWriteTimeUtc(folder["seed-0.json"]).ShouldBe(written);
        again.Arms[0].Metrics["perplexity"].Mean.ShouldBe(report.Arms[0].Metrics["perplexity"].Mean);
    }

    [Fact]
    public void A_system_without_a_reproduction_gets_a_sentence_that_lists_those_there_are() =>
        Should.Throw<EspalierException>(() => Reproduction.For("nothing")).Message.ShouldContain("perp");

    [Fact]
    public void The_verdict_follows_the_smallest_effects_of_the_card()
    {
        var recipe = new PerpRecipe();
        RecipeResults Results(double maskLora) => new(new Dictionary<long, IReadOnlyList<Measurement>>
        {
            [0] =
            [
                new("none", "perplexity", 100), new("norms", "perplexity", 70), new("norms + MaskLoRA", "perplexity", maskLora),
                new("norms + LoRA-Prune", "perplexity", 80), new("all, masked", "perplexity", 45),
                new("norms + MaskLoRA", "trained parameters", 5), new("all, masked", "trained parameters", 100), new("all, masked", "revived zeros", 0),
            ],
        });
        recipe.Judge(Results(50)).ShouldAllBe(c => c.Holds);
        recipe.Judge(Results(79)).Count(c => !c.Holds).ShouldBe(2);
    }
}
