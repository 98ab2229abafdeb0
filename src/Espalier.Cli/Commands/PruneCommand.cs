using System.CommandLine;
using Espalier.Pruning;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier prune</c>: a plan, in YAML or in words, run from checkpoint to checkpoint.</summary>
internal sealed class PruneCommand : EspalierCommand
{
    private readonly Argument<string> _model = new("model") { Description = "A checkpoint folder, a hub id (org/name[@revision]), or a plan (*.yaml)." };
    private readonly Option<bool> _dryRun = new("--dry-run") { Description = "Show the plan and try one block of each kind (structured: what would be cut where), then stop." };
    private readonly Option<bool> _fresh = new("--fresh") { Description = "Start over where an unfinished run lies in the output folder." };

    // The words of the command line and where they stand in a plan.
    private readonly (Option<string?> Option, string Path)[] _words =
    [
        (new("--criterion") { Description = "The importance of weights: magnitude, wanda, sparsegpt, … (`espalier methods criterion`). Default wanda; magnitude where the sparsity is 0." }, "prune.criterion"),
        (new("--sparsity") { Description = "The share of weights (structured: of the blocks' parameters) to remove, for example 0.5; 0 prunes nothing." }, "prune.sparsity"),
        (new("--pattern") { Description = "unstructured; structured (cuts whole units: a smaller dense model); or N:M such as 2:4 (two of every four stay). Default unstructured." }, "prune.pattern"),
        (new("--units") { Description = "Structured: what a share is taken from: heads,neurons (default); heads; neurons; channels; layers." }, "prune.pattern.units"),
        (new("--hidden") { Description = "Structured, instead of a sparsity: the width to end with." }, "prune.pattern.hidden"),
        (new("--neurons") { Description = "Structured: the neurons that every block ends with." }, "prune.pattern.neurons"),
        (new("--heads") { Description = "Structured: the query heads that every block ends with, in whole key-value groups." }, "prune.pattern.heads"),
        (new("--kv-heads") { Description = "Structured: the key-value heads that every block ends with." }, "prune.pattern.key_value_heads"),
        (new("--layers") { Description = "Structured: the blocks to end with." }, "prune.pattern.layers"),
        (new("--round") { Description = "Structured: widths become multiples of this; 1 rounds nothing. Default 64, 16 or 8 by width." }, "prune.pattern.round"),
        (new("--scope") { Description = "Which weights are ranked together: default (the criterion's own), layer, row, global." }, "prune.scope"),
        (new("--allocator") { Description = "How much each layer gives. Default uniform; structured also global, flap." }, "prune.allocator"),
        (new("--repair") { Description = "Weight changes after pruning, one or several apart by commas: sparsegpt, dsnot, flap (biases), perp (layer-wise reconstruction); none." }, "prune.repair"),
        (new("--quantise") { Description = "Rounds the kept weights to int8 or int4, ready for `espalier pack`; goes with a sparsity of 0 too." }, "quantise.type"),
        (new("--rounding") { Description = "How it rounds: sparsegpt (the columns to the right absorb the error), rtn (to the nearest). Default sparsegpt where that repairs, else rtn." }, "quantise.method"),
        (new("--calibration") { Description = $"Text to calibrate (and retrain) on: {Inputs.DataForms}." }, "data.calibration"),
        (new("--train-data") { Description = "Text to retrain on; default the calibration text." }, "data.train"),
        (new("--evaluation") { Description = "Text to measure perplexity on, before and after." }, "data.evaluation"),
        (new("--samples") { Description = "Calibration windows. Default 64." }, "data.samples"),
        (new("--length") { Description = "Tokens per calibration window. Default the model's context, at most 2048." }, "data.length"),
        (new("--windows") { Description = "Evaluation windows at most. Default all." }, "data.windows"),
        (new("--context") { Description = "Tokens per evaluation window. Default the model's context, at most 4096." }, "data.context"),
        (new("--retrain") { Description = "What retrains the pruned model: perp (a small share), minitron (distillation from the dense model), prosparse (sparse activations); none." }, "retrain.method"),
        (new("--subset") { Description = "What is trained: biases, norms, head, masklora, scalelora, loraprune, full; several apart by commas." }, "retrain.subset"),
        (new("--steps") { Description = "Retraining steps." }, "retrain.steps"),
        (new("--rank") { Description = "Rank of adapters." }, "retrain.rank"),
        (new("--alpha") { Description = "Strength of adapters." }, "retrain.alpha"),
        (new("--lr") { Description = "Peak learning rate of retraining." }, "retrain.learning_rate"),
        (new("--batch") { Description = "Sequences per retraining step." }, "retrain.batch"),
        (new("--train-length") { Description = "Tokens per retraining sequence." }, "retrain.length"),
        (new("--seed") { Description = "The seed of every random draw. Default 0." }, "seed"),
        (new("--memory") { Description = "The most memory to plan with, for example 8GB; activations go to a file when they would break it." }, "memory"),
        (new("--out") { Description = "The output folder." }, "out"),
    ];

    private readonly Option<bool> _uniform = new("--uniform") { Description = "Structured: all blocks end alike, so that every program loads the result." };
    private readonly Option<string[]> _set = new("--set") { Description = "Any word of the plan as PATH=VALUE, also an option of a part: prune.allocator.levels=20, retrain.weight_decay=0.01 (`espalier methods NAME` lists a part's options); may be given several times.", HelpName = "PATH=VALUE" };
    private readonly Option<string[]> _prompts = new("--prompt") { Description = "A text to continue before and after, for the report; may be given several times." };

    public PruneCommand()
        : base(
            "prune",
            "Prunes a checkpoint by a plan: criterion × pattern × allocator × repair × quantiser × retraining; writes a checkpoint that other tools load, and a report.",
            "espalier prune meta-llama/Llama-3.2-1B --sparsity 0.5 --calibration Salesforce/wikitext:wikitext-2-v1:validation --out ./llama-50",
            "espalier prune MODEL --criterion wanda --sparsity 0.5 --calibration stanfordnlp/imdb:plain_text:train --samples 64 --retrain perp --subset norms,masklora --steps 200 --seed 0 --out DIR",
            "espalier prune MODEL --criterion sparsegpt --pattern 2:4 --calibration texts.jsonl --memory 8GB --out DIR --dry-run",
            "espalier prune MODEL --criterion sparsegpt --sparsity 0.5 --quantise int4 --calibration texts.jsonl --out DIR",
            "espalier prune MODEL --criterion flap --pattern structured --sparsity 0.2 --uniform --calibration texts.jsonl --out DIR",
            "espalier prune MODEL --criterion minitron --pattern structured --hidden 144 --neurons 256 --layers 4 --calibration texts.jsonl --out DIR --dry-run",
            "espalier prune MODEL --sparsity 0.5 --calibration texts.jsonl --retrain minitron --steps 400 --lr 1e-3 --out DIR",
            "espalier prune MODEL --sparsity 0 --train-data texts.jsonl --retrain prosparse --steps 400 --lr 1e-3 --out DIR",
            "espalier prune MODEL --criterion gblm --allocator rdprune --sparsity 0.6 --calibration texts.jsonl --set prune.criterion.scale=100 --set prune.allocator.levels=10 --out DIR",
            "espalier prune plan.yaml --seed 1 --out ./again")
    {
        Add(_model);
        foreach ((Option<string?> option, _) in _words)
        {
            Add(option);
        }

        Add(_uniform);
        Add(_set);
        Add(_prompts);
        Add(_dryRun);
        Add(_fresh);
        KeepRuns();
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        PlanFile plan = PlanWords.Start(parsed.GetRequiredValue(_model));
        foreach ((Option<string?> option, string path) in _words)
        {
            if (parsed.GetValue(option) is { } value)
            {
                plan = PlanWords.Put(plan, path, value);
            }
        }

        plan = parsed.GetValue(_uniform) ? PlanWords.Put(plan, "prune.pattern.uniform", "true") : plan;
        plan = (parsed.GetValue(_set) ?? []).Aggregate(plan, PlanWords.Set);

        if (parsed.GetValue(_prompts) is { Length: > 0 } prompts)
        {
            plan = plan.With("data.prompts", prompts);
        }

        if (plan.Values.GetValueOrDefault("retrain") is IReadOnlyDictionary<string, object?> retrain && !retrain.ContainsKey("method"))
        {
            throw new EspalierException($"--{retrain.Keys.First().Replace("learning_rate", "lr", StringComparison.Ordinal)} belongs to retraining, but no method was named; add --retrain perp.");
        }

        if (plan.At("prune.pattern") is IReadOnlyDictionary<string, object?> pattern && !pattern.ContainsKey("method"))
        {
            throw new EspalierException($"--{pattern.Keys.First().Replace("key_value_heads", "kv-heads", StringComparison.Ordinal)} belongs to structured pruning, but the pattern was not named; add --pattern structured.");
        }

        EspalierException.Require(plan.Values.ContainsKey("out"), "The output folder is missing; name it with --out DIR (or `out:` in the plan).");
        PruneRequest request = PruneRequest.Read(plan);
        context.Recording?.Describe(plan, request.Out, request.Model, request.Seed);
        PruningJob job = await Task.Run(() => PruneJobs.Make(request, context.Device, parsed.GetValue(_fresh), context.Progress, cancellation), cancellation).ConfigureAwait(false);
        PruningPreview preview = Pruner.Preview(job);
        if (!context.Settings.Json)
        {
            PruningText.ShowPreview(context, job, preview);
        }

        if (parsed.GetValue(_dryRun))
        {
            IReadOnlyList<BlockReport> tried = await Pruner.TryAsync(job, context.Progress, cancellation).ConfigureAwait(false);
            context.Show(new { preview.Prunable, preview.Parameters, preview.PeakBytes, seconds = preview.Time.TotalSeconds, preview.Layers, preview.Structure, tried }, () => PruningText.ShowTrial(context, tried));
            return ExitCode.Success;
        }

        PruningReport report = await Pruner.RunAsync(job, context.Progress, cancellation).ConfigureAwait(false);
        PruningReportPage.SaveAll(report);
        context.Show(report, () => PruningText.ShowReport(context, report));
        return ExitCode.Success;
    }
}
