using System.Text.Json;
using Espalier.Models;
using Espalier.Recipes;
using Espalier.Runtime;

namespace Espalier.Tests.Recipes;

public sealed class ReproductionTests
{
    public static TheoryData<string> Systems => [.. Reproduction.All.Keys.Order(StringComparer.Ordinal)];

    [Theory]
    [MemberData(nameof(Systems))]
    public void It_runs_at_smoke_size_measures_what_it_judges_and_a_finished_seed_is_not_run_again(string system)
    {
        using var folder = new TemporaryFolder();
        var context = new RecipeContext { Size = RecipeSize.Smoke, Device = TorchSharp.torch.CPU, Progress = SilentProgress.Instance };
        long live = Parameters.LiveTensors;
        ReproductionReport report = Reproduction.Run(system, context, [0], folder.Path);
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(live);
        report.Verdict.ShouldContain("not judged");
        foreach (ExperimentSummary summary in report.Experiments)
        {
            summary.Settings.Select(s => s.Setting).ShouldBe(summary.Experiment.Settings);
            summary.Settings.SelectMany(s => s.Arms).Select(a => a.Arm).Distinct().ShouldBe(summary.Experiment.Arms, ignoreOrder: true);
            summary.Settings.ShouldAllBe(s => s.Arms.Any(a => a.Metrics.ContainsKey(summary.Experiment.Metric)));
        }

        File.ReadAllText(folder["report.html"]).ShouldContain($"Reproduction: {system}");
        ReproductionPage.ToMarkdown(report).ShouldContain("| arm |");

        DateTime written = File.GetLastWriteTimeUtc(folder["seed-0.json"]);
        ReproductionReport again = Reproduction.Run(system, context, Reproduction.For(system).DependsOnSeed ? [0] : [0, 1], folder.Path);
        again.Seeds.ShouldBe([0]);
        File.GetLastWriteTimeUtc(folder["seed-0.json"]).ShouldBe(written);
        ReproductionPage.ToMarkdown(again).ShouldBe(ReproductionPage.ToMarkdown(report));

        // A condition that names an arm or metric that is never measured throws or has no value.
        using JsonDocument seed = JsonDocument.Parse(File.ReadAllText(folder["seed-0.json"]));
        Measurement[] measured = seed.RootElement.GetProperty("Measurements").Deserialize<Measurement[]>()!;
        IReadOnlyList<Check> checks = Reproduction.For(system).Judge(new RecipeResults(new Dictionary<long, IReadOnlyList<Measurement>> { [0] = measured }));
        checks.ShouldNotBeEmpty();
        checks.ShouldAllBe(c => c.Values.Count == 1);
    }

    [Fact]
    public void A_system_without_a_reproduction_gets_a_sentence_that_lists_those_there_are() =>
        Should.Throw<EspalierException>(() => Reproduction.For("nothing")).Message.ShouldContain("perp");

    [Fact]
    public void The_verdict_follows_the_smallest_effects_of_the_card()
    {
        var recipe = new PerpRecipe();
        (string experiment, string images) = (recipe.Experiments[0].Name, recipe.Experiments[1].Name);
        RecipeResults Results(double maskLora)
        {
            var measured = new List<Measurement>();
            foreach ((string arm, double perplexity, double trained) in new[] { ("none", 100, 0), ("norms", 70, 2), ("norms + MaskLoRA", maskLora, 5), ("norms + LoRA-Prune", 80, 5), ("all, masked", 45, 100) })
            {
                measured.Add(new Measurement(experiment, Experiment.Only, arm, "perplexity", perplexity));
                measured.Add(new Measurement(experiment, Experiment.Only, arm, "trained parameters", trained));
                measured.Add(new Measurement(experiment, Experiment.Only, arm, "revived zeros", 0));
            }

            foreach ((string arm, double accuracy) in new[] { ("dense", 80.0), ("none", 30), ("statistics of batch norms alone", 60), ("norms, biases, head", 75), ("norms, biases, head + MaskLoRA", 76), ("all, masked", 78) })
            {
                measured.Add(new Measurement(images, Experiment.Only, arm, "test accuracy, %", accuracy));
                measured.Add(new Measurement(images, Experiment.Only, arm, "parameters trained, %", 1));
                measured.Add(new Measurement(images, Experiment.Only, arm, "revived zeros", 0));
            }

            return new(new Dictionary<long, IReadOnlyList<Measurement>> { [0] = measured });
        }

        recipe.Judge(Results(50)).ShouldAllBe(c => c.Holds);
        recipe.Judge(Results(79)).Count(c => !c.Holds).ShouldBe(2);
    }

    [Fact]
    public void A_check_holds_by_the_mean_or_by_every_seed_and_says_what_it_measured()
    {
        Check mean = Check.AtMost("ratio", [0.8, 0.9, 1.0], 0.9);
        mean.Holds.ShouldBeTrue();
        mean.Measured.ShouldBe("0.9 ± 0.248");
        mean.Needed.ShouldBe("≤ 0.9");
        Check every = Check.AtMost("ratio", [0.8, 0.9, 1.0], 0.9, everySeed: true);
        every.Holds.ShouldBeFalse();
        every.Measured.ShouldBe("0.8 to 1");
        Check least = Check.AtLeast("gain", [5], 4, "%");
        least.Holds.ShouldBeTrue();
        least.Measured.ShouldBe("5 %");
        least.Needed.ShouldBe("≥ 4 %");
        Check.AtMost("difference", [0], 1e-5).Needed.ShouldBe("≤ 1E-05");
        Check.AtMost("ratio", [double.NaN], 1).Holds.ShouldBeFalse();
        Check.AtMost("ratio", [double.NaN], 1).Measured.ShouldBe("not a number");
    }

    [Theory]
    [InlineData(1.005, "1.005")]
    [InlineData(0.99612, "0.9961")]
    [InlineData(1.4321, "1.432")]
    [InlineData(15.764, "15.76")]
    [InlineData(0.12345, "0.123")]
    [InlineData(123.46, "123.5")]
    [InlineData(2669.7, "2,670")]
    [InlineData(2108896, "2,108,896")]
    public void Figures_show_three_or_four_digits(double value, string shown) => Check.AtMost("figure", [value], 1).Measured.ShouldBe(shown);

    [Fact]
    public void A_spread_that_is_only_rounding_is_not_shown()
    {
        Check.AtMost("figure", [68.18, 68.18 + 1e-13, 68.18 - 1e-13], 70).Measured.ShouldBe("68.18");
        Check.AtMost("figure", [0.25, 0.25 + 1e-16], 1, everySeed: true).Measured.ShouldBe("0.25");
        Check.AtMost("figure", [68, 69], 70).Measured.ShouldStartWith("68.5 ± ");
    }
}
