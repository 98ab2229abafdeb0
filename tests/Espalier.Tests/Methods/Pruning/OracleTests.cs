using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;

namespace Espalier.Tests.Methods.Pruning;

public sealed class OracleTests
{
    [Fact]
    public void The_worked_example_of_the_paper_card()
    {
        RankCorrelation rank = RankCorrelation.Kendall([1, 2, 3, 4], [1, 3, 2, 4]);
        rank.Tau.ShouldBe(2.0 / 3, 1e-12);
        rank.P.ShouldBe(1.0 / 3, 1e-12);
        RankCorrelation.Kendall([1, 1, 2], [1, 2, 3]).Tau.ShouldBe(2 / Math.Sqrt(6), 1e-12);
        UnitCombinations.All([(3, 0.67), (2, 0.5)], 10).Choices.Select(c => string.Concat(c.SelectMany(u => u))).ShouldBe(["010", "011", "020", "021", "120", "121"]);
        OracleVerdict verdict = OracleVerdict.Of([new(0, 1.0, 0.5, 1), new(1, 1.2, 0.4, 2), new(2, 1.5, 0.6, 0)]);
        verdict.AnomalyLoss.ShouldBe(1.0 / 3, 1e-12);
        verdict.Best.Combination.ShouldBe(0);
    }

    [Fact]
    public void What_has_no_correlation_is_not_a_number_or_refused()
    {
        double.IsNaN(RankCorrelation.Kendall([1, 1, 1], [1, 2, 3]).Tau).ShouldBeTrue();
        Should.Throw<EspalierException>(() => RankCorrelation.Kendall([1, 2], [1, 2])).Message.ShouldContain("at least 3");
        Should.Throw<EspalierException>(() => UnitCombinations.All([(6, 0.1)], 10)).Message.ShouldContain("at least one must go");
        Should.Throw<EspalierException>(() => UnitCombinations.All([(40, 0.5)], 1000)).Message.ShouldContain("sample");
        RankCorrelation.Kendall([.. Enumerable.Range(0, 200).Select(i => (double)i)], [.. Enumerable.Range(0, 200).Select(i => (double)i)]).P.ShouldBe(0, 1e-100);
    }

    [Fact]
    public void Sampled_choices_are_distinct_ascending_and_the_same_for_a_seed()
    {
        UnitCombinations some = UnitCombinations.Sample([(6, 0.5), (4, 0.5)], 30, new Seed(1));
        string[] words = [.. some.Choices.Select(c => string.Join('|', c.Select(u => string.Join(',', u))))];
        words.Distinct().Count().ShouldBe(30);
        some.Choices.ShouldAllBe(c => c.All(u => u.SequenceEqual(u.Order())));
        UnitCombinations.Sample([(6, 0.5), (4, 0.5)], 30, new Seed(1)).Choices.Select(c => string.Join('|', c.Select(u => string.Join(',', u)))).ShouldBe(words);
    }

    [Fact]
    public void A_study_cuts_every_choice_writes_its_table_and_is_not_run_twice()
    {
        using var folder = new TemporaryFolder();
        using ImageTensors images = TinyVision.Noise();
        using VisionModel net = TinyVision.Make(TinyVision.Vgg);
        var oracle = new Oracle { Layers = ["features.0"], Repeats = 2 };
        var context = new VisionMethodContext { Model = net, Images = images, Test = images, Options = new TrainingOptions { Steps = 2, LearningRate = 0.01 }, Batch = 8, Folder = folder.Path };
        using (VisionMethodResult result = oracle.Run(context))
        {
            result.Net.Layer("features.0").Shape.Channels.ShouldBe(2);
            result.Figures[0].Value.ShouldBe(6);
        }

        File.ReadAllLines(folder["oracle.csv"]).Length.ShouldBe(7);
        File.ReadAllText(folder["oracle.html"]).ShouldContain("Every choice");
        string kept = Directory.GetFiles(folder.Path, "oracle-*.json").Single();
        DateTime written = File.GetLastWriteTimeUtc(kept);
        IReadOnlyList<OracleRun> runs = oracle.Measure(context);
        File.GetLastWriteTimeUtc(kept).ShouldBe(written);
        runs.Count.ShouldBe(12);
        runs.Where(r => r.Combination == 3).Select(r => r.Score).Distinct().Count().ShouldBe(1);
        Oracle.Judge(runs, i => -i).Best.Combination.ShouldBe(5);
        oracle.Measure(context with { Seed = new Seed(5) }).ShouldNotBe(runs);
        Should.Throw<EspalierException>(() => new Oracle { Layers = ["nothing"] }.Check(net, context.Options)).Message.ShouldContain("nothing");
        Should.Throw<EspalierException>(() => oracle.Measure(context with { Test = null })).Message.ShouldContain("--eval-data");
    }
}
