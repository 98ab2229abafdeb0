using System.CommandLine;
using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Methods.Adaptation;
using Espalier.Pruning;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier complete</c>: predicts the unknown entries of a matrix (ratings) from the known ones.</summary>
internal sealed class CompleteCommand : EspalierCommand
{
    private readonly Argument<string> _entries = new("ENTRIES") { Description = "A text file of known entries: row, column and value a line, apart by tabs, commas or spaces; rows and columns may have names." };
    private readonly Option<string> _method = new("--method") { Description = "The method, lrmc, or a YAML file with it and its options.", HelpName = "NAME|file", DefaultValueFactory = _ => "lrmc" };
    private readonly Option<string[]> _set = new("--set") { Description = "An option as NAME=VALUE: rank=8, ridge=0.1, offsets=true, solver=exact; may be given several times.", HelpName = "NAME=VALUE" };
    private readonly Option<string?> _test = new("--test") { Description = "Entries that are held out, to measure the error on.", HelpName = "file" };
    private readonly Option<string?> _places = new("--predict") { Description = "Places to predict: row and column a line (default: those of --test).", HelpName = "file" };
    private readonly Option<string?> _out = new("--out", "-o") { Description = "Writes the predictions as CSV.", HelpName = "file" };

    public CompleteCommand()
        : base("complete", "Completes a matrix from few known entries (ratings of films by users): a product of two thin factors is fitted to what is known.",
            "espalier complete ratings.tsv --set rank=8 --set offsets=true --set ridge=0.1 --test held-out.tsv",
            "espalier complete ratings.csv --set offsets=true --set ridge=0.1 --predict wanted.csv --out predicted.csv")
    {
        Add(_entries);
        foreach (Option option in new Option[] { _method, _set, _test, _places, _out })
        {
            Add(option);
        }
    }

    protected override Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        Lrmc method = PlanWords.Method<Lrmc>(parsed.GetRequiredValue(_method), parsed.GetValue(_set) ?? []);
        var table = new EntryTable();
        var known = table.Read(parsed.GetRequiredValue(_entries));
        var test = parsed.GetValue(_test) is { } held ? table.Read(held) : null;
        var places = parsed.GetValue(_places) is { } wanted ? table.Read(wanted, values: false) : test;
        string? output = parsed.GetValue(_out);
        EspalierException.Require(output is null || places is not null, "--out writes predictions, and no places are given; add --predict or --test.");
        KnownEntries entries = table.Entries(known);
        MatrixCompletion completed = method.Complete(entries, cancellation);
        double? error = null, baseline = null;
        if (test is not null)
        {
            // Values outside the range of the known ones do not occur.
            (double least, double most) = (known.Min(e => e.Value), known.Max(e => e.Value));
            KnownEntries heldOut = table.Entries(test);
            EntryOffsets offsets = EntryOffsets.Fit(entries);
            error = completed.Rmse(heldOut, least, most);
            baseline = Math.Sqrt(test.Average(e => Math.Pow(Math.Clamp(offsets.At(e.Row, e.Column), least, most) - e.Value, 2)));
        }

        if (output is not null)
        {
            AtomicFile.WriteText(output, "row,column,value\n" + string.Concat(places!.Select(p =>
                string.Create(CultureInfo.InvariantCulture, $"{table.RowNames[p.Row]},{table.ColumnNames[p.Column]},{completed[p.Row, p.Column]:G6}\n"))));
        }

        double share = 100.0 * entries.Count / ((double)entries.Rows * entries.Columns);
        CompletionRound last = completed.Steps[^1];
        context.Show(
            new { rows = entries.Rows, columns = entries.Columns, entries = entries.Count, rank = completed.Rank, rounds = completed.Steps, completed.Empty, completed.Thin, rmse = error, offsetsRmse = baseline, file = output },
            () =>
            {
                context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Text.Count(entries.Count)} of {Text.Count(entries.Rows)} × {Text.Count(entries.Columns)} entries are known ({share:0.##} %)"));
                context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"rank {completed.Rank}, {completed.Steps.Count} rounds: residual {100 * last.Residual:0.##} % of the known entries' norm, {completed.Steps.Sum(s => s.Seconds):0.##} s"));
                if (completed.Empty + completed.Thin > 0)
                {
                    context.Output.WriteLine($"{completed.Empty} rows and columns have no known entry, {completed.Thin} fewer than the rank");
                }

                if (error is not null)
                {
                    context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"RMSE on {Text.Count(test!.Count)} held-out entries {error:0.0000}; offsets of rows and columns alone {baseline:0.0000}"));
                }

                if (output is not null)
                {
                    context.Output.WriteLine($"written to {output}");
                }
            });
        return Task.FromResult(ExitCode.Success);
    }
}
