using System.CommandLine;
using Espalier.Sparsity.Packed;
using Text = Espalier.Runtime.Text;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier pack</c>: stores a pruned model's weights without their zeros.</summary>
internal sealed class PackCommand : EspalierCommand
{
    private readonly Argument<string> _model = new("MODEL") { Description = "A pruned model's folder or a hub id." };
    private readonly Option<string> _type = new("--type") { Description = "How kept weights are stored: f32, bf16, f16, int8 or int4.", HelpName = "type", Required = true };
    private readonly Option<string?> _code = new("--code") { Description = "How places are named: bitmask, dense or 2:4 (default: per weight the one that takes the fewest bytes).", HelpName = "code" };
    private readonly Option<string?> _head = new("--head") { Description = "How the token table and the head are stored, dense: a type, or keep (default: int8 beside integers, else the type).", HelpName = "type" };
    private readonly Option<bool?> _skip = new("--skip-inactive") { Description = "Whether weights behind a ReLU are stored by input, so that decoding never reads those of inactive neurons (default: true for floats; integers then have a scale per input).", HelpName = "true|false" };
    private readonly Option<string> _out = new("--out") { Description = "The output folder.", HelpName = "folder", Required = true };

    public PackCommand()
        : base("pack", "Stores a pruned model's weights without their zeros: where the kept ones belong, and their values.",
            "espalier pack ./llama-50 --type bf16 --out ./llama-50-packed",
            "espalier pack ./llama-50 --type int4 --out ./llama-50-int4",
            "espalier pack ./llama --type int4 --code dense --head keep --out ./llama-int4")
    {
        Add(_model);
        Add(_type);
        Add(_code);
        Add(_head);
        Add(_skip);
        Add(_out);
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        var options = new PackOptions(PackedTypes.Parse(parsed.GetRequiredValue(_type)));
        options = parsed.GetValue(_code) is { } code ? options with { Code = MatrixCodes.Parse(code) } : options;
        options = parsed.GetValue(_head) is { } head ? options with { HeadType = head == PackOptions.Keep ? null : PackedTypes.Parse(head) } : options;
        options = parsed.GetValue(_skip) is { } skip ? options with { SkipInactive = skip } : options;
        options.RequireSound();
        string output = parsed.GetRequiredValue(_out);
        string folder = await Inputs.ModelAsync(parsed.GetRequiredValue(_model), context, cancellation).ConfigureAwait(false);
        PackReport report = await Task.Run(() => Packer.Pack(folder, options, output, context.Progress, cancellation), cancellation).ConfigureAwait(false);
        context.Show(new { folder = output, type = PackedTypes.WordOf(options.Type), report }, () =>
        {
            context.Output.WriteLine(FormattableString.Invariant($"{report.Weights} weights; those of blocks have {report.Zeros:0.0%} zeros at {report.BitsPerWeight:0.00} bits per weight ({PackedTypes.WordOf(options.Type)}; {string.Join(", ", report.Codes.Select(c => $"{c.Value} {c.Key}"))})"));
            if (options.HeadType is { } stored)
            {
                context.Output.WriteLine(FormattableString.Invariant($"token table and head at {report.HeadBitsPerWeight:0.00} bits per weight ({PackedTypes.WordOf(stored)}, dense)"));
            }

            context.Output.WriteLine($"all tensors: {Text.Bytes(report.DenseBytes)} dense, {Text.Bytes(report.PackedBytes)} packed, in {output}");
            context.Output.WriteLine(FormattableString.Invariant($"re-opened: logits differ from the source's by {report.LogitDifference:G3} of their size (at most {report.LogitTolerance} for this type)"));
            ReaderText.Show(context, report.Readers);
        });
        return ExitCode.Success;
    }
}

/// <summary><c>espalier unpack</c>: the way back.</summary>
internal sealed class UnpackCommand : EspalierCommand
{
    private readonly Argument<string> _model = new("DIR") { Description = "A packed model's folder." };
    private readonly Option<string> _out = new("--out") { Description = "The output folder.", HelpName = "folder", Required = true };

    public UnpackCommand()
        : base("unpack", "Writes a packed model as an ordinary checkpoint again: floats in their type, integers as the float32 numbers they stand for.",
            "espalier unpack ./llama-50-packed --out ./llama-50-dense")
    {
        Add(_model);
        Add(_out);
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string folder = parsed.GetRequiredValue(_model), output = parsed.GetRequiredValue(_out);
        UnpackReport report = await Task.Run(() => Packer.Unpack(folder, output, context.Progress, cancellation), cancellation).ConfigureAwait(false);
        context.Show(new { folder = output, report.Bytes, report.LogitDifference, report.Readers }, () =>
        {
            context.Output.WriteLine($"{Text.Bytes(report.Bytes)} of dense tensors in {output}");
            ReaderText.Show(context, report.Readers);
        });
        return ExitCode.Success;
    }
}
