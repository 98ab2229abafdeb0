using System.CommandLine;
using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Models.Export;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Sparsity.NormalFloats;
using Espalier.Sparsity.Packed;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier merge-adapter</c>: folds adapters into a model's weights and writes it as a checkpoint.</summary>
internal sealed class MergeAdapterCommand : EspalierCommand
{
    private readonly Argument<string> _model = new("MODEL") { Description = "The model or vision net that the adapters were trained on: its folder or a hub id." };
    private readonly Option<string[]> _adapter = AdapterWords.Option(required: true);
    private readonly Option<double> _most = new("--max-difference") { Description = "Merging one that changes a logit of the probe batch by more than this is refused.", HelpName = "logits", DefaultValueFactory = _ => AdapterMerge.Bound };
    private readonly Option<bool> _force = new("--force") { Description = "Merges whatever the difference; it is still reported." };
    private readonly Option<bool> _fill = new("--fill-zeros") { Description = "Merges into a pruned model although that fills its zeros; the result is dense." };
    private readonly Option<bool> _compact = new("--compact") { Description = "Writes the model as the adapter uses it, its quantised weights packed and the low-rank part beside them (lqlora): it loads and runs at that size." };
    private readonly Option<string?> _type = new Option<string?>("--dtype") { Description = "How weights are stored (default: as the model's).", HelpName = "type" }.AcceptOnlyFromAmong("float32", "bfloat16", "float16");
    private readonly Option<string> _out = new("--out", "-o") { Description = "The output folder.", HelpName = "folder", Required = true };

    public MergeAdapterCommand()
        : base("merge-adapter", "Folds adapters into a model's weights, in float32, and writes it for other tools to load.",
            "espalier merge-adapter ./llama --adapter ./reviews-adapter --out ./llama-reviews",
            "espalier merge-adapter ./llama --adapter ./poems=0.7 --adapter ./plays=0.3 --out ./llama-both",
            "espalier merge-adapter ./llama --adapter ./lqlora-adapter --compact --out ./llama-3bit",
            "espalier merge-adapter ./llama-50 --adapter ./peft-lora --fill-zeros --out ./llama-dense")
    {
        Add(_model);
        foreach (Option option in (Option[])[_adapter, _most, _force, _fill, _compact, _type, _out])
        {
            Add(option);
        }

        KeepRuns();
    }

    /// <inheritdoc/>
    internal override void Check(ParseResult parsed)
    {
        double most = parsed.GetValue(_most);
        EspalierException.Require(most >= 0, string.Create(CultureInfo.InvariantCulture, $"--max-difference {most} is not possible; give 0 or more."));
        IReadOnlyList<(string Folder, double Weight)> adapters = AdapterWords.Parse(parsed.GetValue(_adapter));
        EspalierException.Require(!parsed.GetValue(_compact) || adapters is [{ Weight: 1 }], "--compact writes one adapter at weight 1; leave the others out.");
        string? beside = parsed.GetValue(_compact) ? null : adapters.FirstOrDefault(a => !AdapterFile.MethodOf(a.Folder).Folds).Folder;
        EspalierException.Require(beside is null, $"The adapter in {beside} is not linear, so it cannot be folded into weights; use it beside the model (eval and generate take it with --adapter).");
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        IReadOnlyList<(string Folder, double Weight)> adapters = AdapterWords.Parse(parsed.GetValue(_adapter));
        double most = parsed.GetValue(_most);
        double? bound = parsed.GetValue(_force) ? null : most;
        string output = Path.GetFullPath(parsed.GetRequiredValue(_out));
        string folder = await Inputs.ModelAsync(parsed.GetRequiredValue(_model), context, cancellation).ConfigureAwait(false);
        EspalierException.Require(Path.GetFullPath(folder) != output, "The merged model cannot be written over the model that it is made from; name another --out.");
        IReadOnlyDictionary<string, SparsityMask> masks = parsed.GetValue(_fill) ? new Dictionary<string, SparsityMask>() : SparsityMasks.Load(folder);
        if (VisionConfig.IsVision(folder))
        {
            EspalierException.Require(!parsed.GetValue(_compact), "--compact is for language models; leave it out.");
            EspalierException.Require(parsed.GetValue(_type) is null or "float32", "Vision nets are stored in float32; leave --dtype out.");
            return MergeVision(folder, adapters, masks, bound, output, context);
        }

        if (parsed.GetValue(_compact))
        {
            return Compact(folder, adapters[0].Folder, masks, output, TypeOf(parsed.GetValue(_type) ?? StoredType(folder)), context);
        }

        using LanguageModel model = Inputs.Load(folder, context);
        (IReadOnlyList<AdapterMerge?> merges, IReadOnlyCollection<string> touched) = AdapterWords.Apply(AdaptationContext.Of(model, masks), adapters, AdapterMerge.Probe(model), bound);
        double reopened = LanguageModelTraining.Save(model, output, TypeOf(parsed.GetValue(_type) ?? StoredType(folder)), folder);
        SaveMasks(output, masks);
        Show(output, adapters, merges, touched.Count, masks, reopened, ReaderMatrix.OfCheckpoint(output, reopened), context);
        return ExitCode.Success;
    }

    private static int Compact(string folder, string adapter, IReadOnlyDictionary<string, SparsityMask> masks, string output, ScalarType others, CommandContext context)
    {
        using LanguageModel model = Inputs.Load(folder, context);
        using IAdaptationRun run = AdapterFile.MethodOf(adapter).Begin(AdaptationContext.Of(model, masks) with { Saved = adapter });
        EspalierException.Require(run is ICompactAdaptationRun, $"The adapter in {adapter} has no weights in fewer bits of its own (lqlora's has), so nothing can be written compact; leave --compact out.");
        NfReport report = ((ICompactAdaptationRun)run).WriteModel(output, folder, others);
        context.Show(
            new { folder = output, report.Bytes, report.BitsPerWeight, report.BitsWithLowRank, report.LargestDifference },
            () =>
            {
                context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{report.BitsPerWeight:0.###} bits a weight, {report.BitsWithLowRank:0.###} with the low-rank part; {Text.Bytes(report.Bytes)} in all"));
                context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"written to {output}; re-opened, logits differ by {report.LargestDifference:G3}"));
            });
        return ExitCode.Success;
    }

    private static int MergeVision(string folder, IReadOnlyList<(string Folder, double Weight)> adapters, IReadOnlyDictionary<string, SparsityMask> masks, double? bound, string output, CommandContext context)
    {
        using VisionModel net = VisionModel.Load(folder, context.Device);
        (IReadOnlyList<AdapterMerge?> merges, IReadOnlyCollection<string> touched) = AdapterWords.Apply(AdaptationContext.Of(net, masks), adapters, AdapterMerge.Probe(net), bound);
        net.Save(output);
        SaveMasks(output, masks);
        using var scope = NewDisposeScope();
        using VisionModel read = VisionModel.Load(output, context.Device);
        double reopened = (AdapterMerge.Probe(read)() - AdapterMerge.Probe(net)()).abs().max().item<float>();
        Show(output, adapters, merges, touched.Count, masks, reopened, null, context);
        return ExitCode.Success;
    }

    private static void SaveMasks(string output, IReadOnlyDictionary<string, SparsityMask> masks)
    {
        if (masks.Count > 0)
        {
            SparsityMasks.Save(output, [.. masks.Keys], name => masks[name]);
        }
    }

    private static void Show(
        string output, IReadOnlyList<(string Folder, double Weight)> adapters, IReadOnlyList<AdapterMerge?> merges, int tensors, IReadOnlyDictionary<string, SparsityMask> masks, double reopened, IReadOnlyList<ReaderEntry>? readers,
        CommandContext context) => context.Show(
        new
        {
            folder = output,
            adapters = adapters.Zip(merges, (a, m) => new { a.Folder, a.Weight, largestDifference = m!.Largest, relativeDifference = m.Relative }),
            tensors,
            zerosKept = masks.Count > 0,
            reopenedDifference = reopened,
            readers,
        },
        () =>
        {
            string Line(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
            foreach (((string folder, double weight), AdapterMerge? merge) in adapters.Zip(merges))
            {
                context.Output.WriteLine(Line($"{folder} at weight {weight:0.###}: merging changes logits by at most {merge!.Largest:G3} on the probe batch ({merge.Relative:G2} of their size)"));
            }

            string zeros = masks.Count > 0 ? "; pruned weights stayed zero" : "";
            context.Output.WriteLine(Line($"{tensors} tensors changed{zeros}"));
            context.Output.WriteLine(Line($"written to {output}; re-opened, logits differ by {reopened:G3}"));
            if (readers is not null)
            {
                ReaderText.Show(context, readers);
            }
        });

    private static string StoredType(string folder)
    {
        ITensorSource source = PackedSource.OpenAny(folder);
        using var opened = source as IDisposable;
        return source.Info(source.Names[0]).ElementType switch { "BF16" => "bfloat16", "F16" => "float16", _ => "float32" };
    }

    private static ScalarType TypeOf(string word) => word switch
    {
        "bfloat16" => ScalarType.BFloat16,
        "float16" => ScalarType.Float16,
        _ => ScalarType.Float32,
    };
}
