using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Recipes;
using Espalier.Runtime;
using Espalier.SizeCurve;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

// Perplexity against bytes: one model dense and sparse, in 16, 8 and 4 bits, rounded to the nearest and in the sweep.
//   dotnet run -c Release --project bench/SizeCurve -- OUT [MODEL] [SEEDS] [WINDOWS] [ARMS]
// ARMS: only those whose names hold this ("dense"). MODEL is a folder or a hub id that is calibrated and measured on IMDb reviews; default: the model that ships, on its own text.
if (args.Length is 0 or > 5)
{
    Console.Error.WriteLine("usage: SizeCurve OUT [MODEL|default] [SEEDS] [WINDOWS] [ARMS]");
    return 2;
}

NativeLibraries.EnsureLoaded();
string? model = args.Length < 2 || args[1] == "default" ? null : args[1];
int seeds = Number(2, 3), windows = Number(3, 64);
var context = new RecipeContext { Size = RecipeSize.Quick, Device = CPU, Model = model, Progress = SilentProgress.Instance };
Arm[] arms = [.. Arm.All.Where(a => args.Length < 5 || a.Name.Contains(args[4], StringComparison.Ordinal))];
var results = arms.ToDictionary(a => a, _ => (Bytes: new List<double>(), Perplexity: new List<double>()));
double dense = 0;
for (int seed = 0; seed < seeds; seed++)
{
    using ModelBench bench = ModelBench.Open(context, new Seed(seed), samples: 32, windows: windows);
    dense = bench.Dense;
    using Checkpoint checkpoint = Checkpoint.Open(bench.Text.Folder);
    foreach (Arm arm in arms.Where(a => seed == 0 || a.LooksAtText))
    {
        using var pruned = bench.Prune(arm.Plan());
        long bytes = Store(pruned.Model, checkpoint, arm.Type);
        double perplexity = bench.Perplexity(pruned.Model);
        results[arm].Bytes.Add(bytes);
        results[arm].Perplexity.Add(perplexity);
        Console.Error.WriteLine(string.Create(CultureInfo.InvariantCulture, $"seed {seed}  {arm.Name,-32} {bytes,10} bytes  perplexity {perplexity:F2}"));
    }
}

Measured[] measured = [.. arms.Select(a => new Measured(a.Name, a.Sparsity, PackedTypes.WordOf(a.Type), a.How,
    (long)results[a].Bytes.Average(), Significance.Mean(results[a].Perplexity)))];
CurvePage.Save(args[0], model ?? "the default model", dense, windows, seeds, measured);
Console.WriteLine(CurvePage.Markdown(measured));
return 0;

int Number(int at, int otherwise) => args.Length > at ? int.Parse(args[at], CultureInfo.InvariantCulture) : otherwise;

// The model as the packed file would give it back, and the bytes of that file's tensors.
static long Store(LanguageModel model, Checkpoint checkpoint, PackedType type)
{
    using var scope = NewDisposeScope();
    using var _ = no_grad();
    var linears = model.Blocks.SelectMany(b => b.Linears).ToDictionary(l => l.Name, l => l.Linear);
    long bytes = checkpoint.Names.Where(n => !linears.ContainsKey(n)).Sum(n => checkpoint.Info(n).ElementCount * 2); // the rest in 16 bits
    foreach (Linear linear in linears.Values)
    {
        using var part = NewDisposeScope();
        float[] weights = linear.Matrix.detach().contiguous().data<float>().ToArray();
        using PackedMatrix packed = PackedMatrix.Pack(weights, (int)linear.OutFeatures, (int)linear.InFeatures, type);
        linear.SetMatrix(packed.ToTensor());

        // Without zeros to leave out 16 bits need no masks: the plain checkpoint is smaller.
        bytes += type is PackedType.BFloat16 ? Math.Min(packed.StoredBytes, weights.LongLength * 2) : packed.StoredBytes;
    }

    return bytes;
}
