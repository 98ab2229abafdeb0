using System.CommandLine;
using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;

namespace Espalier.Cli.Commands;

/// <summary>What several commands do with saved adapters: <c>--adapter FOLDER[=WEIGHT]</c>.</summary>
internal static class AdapterWords
{
    /// <summary>The option of commands that use a model with adapters.</summary>
    /// <param name="required">Whether at least one must be given.</param>
    public static Option<string[]> Option(bool required = false) => new("--adapter")
    {
        Description = $"A saved adapter's folder, of espalier or Python PEFT (LoRA, DoRA); =WEIGHT behind it scales what it changes; given several times, their changes add up. One that is not linear (snnk) is {(required ? "refused" : "used alone and whole")}.",
        HelpName = "folder[=weight]",
        Required = required,
    };

    /// <summary>Folders and weights.</summary>
    /// <exception cref="EspalierException">For a folder that holds no adapter, or one twice.</exception>
    public static IReadOnlyList<(string Folder, double Weight)> Parse(string[]? words)
    {
        var adapters = new List<(string Folder, double Weight)>();
        foreach (string word in words ?? [])
        {
            int equals = word.LastIndexOf('=');
            bool weighted = equals > 0 && !Directory.Exists(word);
            string folder = weighted ? word[..equals] : word;
            double weight = 1;
            EspalierException.Require(
                !weighted || (double.TryParse(word[(equals + 1)..], NumberStyles.Float, CultureInfo.InvariantCulture, out weight) && double.IsFinite(weight)),
                $"'{word}' gives no weight that is a number; write for example --adapter {folder}=0.5.");
            EspalierException.Require(AdapterFile.IsAdapter(folder), $"{folder} holds no adapter; it needs {AdapterFile.FileName}, or Python PEFT's {AdapterFile.PeftConfigName}.");
            EspalierException.Require(adapters.All(a => Path.GetFullPath(a.Folder) != Path.GetFullPath(folder)), $"The adapter {folder} is given twice; give it once, with a weight.");
            adapters.Add((folder, weight));
        }

        return adapters;
    }

    /// <summary>Puts adapters into the weights of a net in memory.</summary>
    /// <param name="net">The net.</param>
    /// <param name="adapters">Folders and weights.</param>
    /// <param name="probe">For the comparison of logits; null compares nothing.</param>
    /// <param name="bound">The largest difference that passes.</param>
    /// <returns>Each adapter's difference, and the names of the parameters that changed.</returns>
    public static (IReadOnlyList<AdapterMerge?> Merges, IReadOnlyCollection<string> Touched) Apply(
        AdaptationContext net, IReadOnlyList<(string Folder, double Weight)> adapters, Func<TorchSharp.torch.Tensor>? probe = null, double? bound = null)
    {
        using var shelf = new AdapterShelf(net);
        AdapterMerge?[] merges = [.. adapters.Select(a => shelf.Add(a.Folder, a.Folder, probe, bound))];
        string[] touched = [.. shelf.Touched];
        shelf.Use([.. adapters]);
        shelf.Keep();
        return (merges, touched);
    }

    /// <summary>A language model in memory with adapters; nothing is written.</summary>
    public static AdaptedNet<LanguageModel> Load(string folder, IReadOnlyList<(string Folder, double Weight)> adapters, CommandContext context) =>
        Put(() => Inputs.Load(folder, context), model => AdaptationContext.Of(model, SparsityMasks.Load(folder)), adapters);

    /// <summary>A vision net in memory with adapters.</summary>
    public static AdaptedNet<VisionModel> LoadVision(string folder, IReadOnlyList<(string Folder, double Weight)> adapters, CommandContext context) =>
        Put(() => VisionModel.Load(folder, context.Device), net => AdaptationContext.Of(net, SparsityMasks.Load(folder)), adapters);

    // Those that fold go into the weights, where they add up; one that does not stays beside them and cannot be weighed.
    private static AdaptedNet<T> Put<T>(Func<T> load, Func<T, AdaptationContext> about, IReadOnlyList<(string Folder, double Weight)> adapters)
        where T : IDisposable
    {
        string? beside = adapters.FirstOrDefault(a => !AdapterFile.MethodOf(a.Folder).Folds).Folder;
        EspalierException.Require(beside is null || adapters is [{ Weight: 1 }],
            $"The adapter in {beside} is not linear: it is not folded into the weights but works beside them, so it is used alone and whole; leave its weight out, and other adapters.");
        T net = load();
        try
        {
            if (beside is not null)
            {
                return new AdaptedNet<T>(net, AdapterFile.MethodOf(beside).Begin(about(net) with { Saved = beside }));
            }

            if (adapters.Count > 0)
            {
                Apply(about(net), adapters);
            }

            return new AdaptedNet<T>(net, null);
        }
        catch
        {
            net.Dispose();
            throw;
        }
    }

    /// <summary>The checkpoint with a model's changed tensors laid over it, for measuring block by block.</summary>
    public static OverlaySource Over(ITensorSource checkpoint, LanguageModel model)
    {
        var over = new OverlaySource(checkpoint);
        foreach ((string name, var value) in model.Tensors.Where(t => checkpoint.Contains(t.Name)))
        {
            over.Change(name, _ => value.detach().cpu().clone());
        }

        return over;
    }
}
