using System.Globalization;
using Espalier.Evaluation;
using Espalier.Reporting;
using Espalier.Runtime;

namespace Espalier.Tests.Reporting;

/// <summary>A page with every block, filled with plausible figures of a small model.</summary>
internal static class DemoPage
{
    private static readonly string[] Kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

    public static ReportPage Make(int blocks = 12)
    {
        Random random = new Seed(5).Random("demo");
        double?[] Errors(double scale) => [.. Enumerable.Range(0, blocks).Select(i => (double?)(scale * (0.02 + (0.012 * i) + (0.006 * random.NextDouble()))))];
        return new ReportPage("imdb-llama, half of it", "Half of the weights are gone; after 200 steps on 0.4 % of the parameters the model reads as well as before, to within 3 %.")
        {
            Kicker = "espalier prune · 26 November 2026 · seed 0",
            Footer = "2 cores, 24 GB, Debian GNU/Linux 12 X64 · .NET 10.0.12 · libtorch 2.10.0 · espalier 0.1.0",
        }
            .Add(new Figures(
                new Figure("sparsity", "50.0 %", "1,114,112 of 2,228,224 prunable weights", Tone.Leaf),
                new Figure("perplexity", "77.9", "75.7 dense, 113.8 pruned", Tone.Leaf),
                new Figure("won back", "93 %", "of the lost log-perplexity"),
                new Figure("trained", "0.41 %", "11,546 parameters"),
                new Figure("on disk", "6.1 MB", "11.3 MB before"),
                new Figure("time", "48 s", "1.2 GB of memory at most")))
            .Add(new Callout("The calibration text has 64 windows; the papers use 128."))
            .Section("Quality", "Perplexity on text that was used for nothing else; lower is better. The mark is one standard error.",
                new BarChart
                {
                    Title = "Perplexity by stage",
                    Bars = [new("dense", 75.7, Tone.Stone, "75.7", 1.9), new("pruned", 113.8, Tone.Clay, "113.8", 2.8), new("repaired", 96.2, Tone.Ochre, "96.2", 2.2), new("retrained", 77.9, Tone.Leaf, "77.9", 1.9)],
                    Note = "64 windows of 256 tokens of the IMDb test reviews.",
                },
                new LineChart
                {
                    Title = "Loss while retraining",
                    XLabel = "step",
                    YLabel = "loss",
                    Lines = [Series.Of("loss", Enumerable.Range(0, 200).Select(i => 4.35 + (0.42 * Math.Exp(-i / 35.0)) + (0.06 * (random.NextDouble() - 0.5))))],
                })
            .Section("Where the zeros are", "Each cell is one linear map; the stronger its colour, the more of it is gone.",
                new HeatGrid
                {
                    Title = "Sparsity by layer",
                    Rows = Kinds,
                    Columns = [.. Enumerable.Range(0, blocks).Select(i => i.ToString(CultureInfo.InvariantCulture))],
                    XLabel = "block",
                    Values = [.. Kinds.Select((_, k) => (IReadOnlyList<double?>)[.. Enumerable.Range(0, blocks).Select(b => (double?)Math.Clamp(0.38 + (0.02 * b) + (0.03 * Math.Sin(k * 2)) + (0.04 * random.NextDouble()), 0, 1))])],
                },
                new SideBySide(
                    new ColumnChart
                    {
                        Title = "Output error by block",
                        Places = [.. Enumerable.Range(0, blocks).Select(i => i.ToString(CultureInfo.InvariantCulture))],
                        XLabel = "block",
                        YLabel = "relative error",
                        Columns = [new("mask alone", Errors(1), Tone.Clay), new("after repair", Errors(0.55))],
                    },
                    new LineChart
                    {
                        Title = "Perplexity against sparsity",
                        XLabel = "sparsity",
                        YLabel = "perplexity",
                        Logarithmic = true,
                        Lines =
                        [
                            new("magnitude", [(0.3, 78), (0.5, 113), (0.6, 190), (0.7, 620), (0.8, 4100)], Tone.Clay),
                            new("wanda", [(0.3, 77), (0.5, 97), (0.6, 131), (0.7, 260), (0.8, 900)], Tone.Slate),
                            new("wanda + perp", [(0.3, 76), (0.5, 78), (0.6, 83), (0.7, 98), (0.8, 140)]),
                        ],
                    }))
            .Section("What quality costs", "The line joins what nothing beats in both figures.",
                new ScatterChart
                {
                    Title = "Perplexity against size",
                    XLabel = "parameters that are not zero",
                    YLabel = "perplexity",
                    Front = Goal.Lower,
                    Reference = ("dense", 75.7),
                    Points = [new("magnitude", 1_300_000, 131, null, 2), new("wanda", 1_310_000, 97, 9_000, 1.5), new("sparsegpt", 1_300_000, 92, null, 1), new("wanda, 30 %", 1_900_000, 77)],
                })
            .Section("In its own words", "The same prompts, continued greedily.",
                new TextSamples(
                [
                    new("This movie was", [("dense", "a great movie. I was surprised to see that it was a good film, and the acting was <very> good."), ("pruned", "the the movie was a the movie of the movie. It was a movie that the"), ("retrained", "a good movie. I was surprised to see it again, and the acting was very good.")]),
                ]))
            .Section("The run", null,
                new CodeBlock("plan.yaml", "model: espalier/imdb-llama-2.8m\nprune: { criterion: wanda, sparsity: 0.5, repair: dsnot }\nretrain: { method: perp, subset: [biases, norms, masklora], steps: 200 }\nseed: 0\nout: ./imdb-llama-50\n"),
                new Details("Every layer", new DataTable(
                    [new("layer"), new("shape"), new("sparsity", Numeric: true), new("error", Numeric: true)],
                    [.. Enumerable.Range(0, 6).Select(i => (IReadOnlyList<string>)[$"model.layers.{i}.self_attn.q_proj", "192 × 192", "50.0 %", $"0.0{i + 2}"])])),
                new Details("Machine", DataTable.Of([new("processor", "two cores"), new("memory", "24 GB")])));
    }
}
