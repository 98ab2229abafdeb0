using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Espalier.Methods.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

// Our side of bench/side_by_side.py: reads a layer and its inputs, prunes it as often as it is asked to on standard input, and
// answers with the seconds that took. "save NAME" writes the last result, for the comparison of what came out.
string folder = args[0];
(long rows, long columns, long sequences, long tokens) = (Number(1), Number(2), Number(3), Number(4));
NativeLibraries.EnsureLoaded();
set_num_threads((int)Number(5));
using Tensor weight = Read("weight.f32", rows, columns), inputs = Read("inputs.f32", sequences, tokens, columns);
Tensor? last = null;
Console.WriteLine($"ready {get_num_threads()}");
while (Console.ReadLine() is { } line)
{
    string[] words = line.Split(' ');
    if (words[0] == "save")
    {
        File.WriteAllBytes(Path.Combine(folder, words[1]), MemoryMarshal.AsBytes(last!.data<float>().ToArray().AsSpan()).ToArray());
        Console.WriteLine("saved");
        continue;
    }

    last?.Dispose();
    var clock = Stopwatch.StartNew();
    last = Prune(words[0]);
    Console.WriteLine(clock.Elapsed.TotalSeconds.ToString("R", CultureInfo.InvariantCulture));
}

Tensor Prune(string method)
{
    using var scope = NewDisposeScope();
    using var _ = no_grad();
    CalibrationNeeds needs = method switch
    {
        "wanda" => CalibrationNeeds.InputNorms,
        "sparsegpt" => CalibrationNeeds.Hessian,
        _ => new DSnoT().Needs,
    };
    using var statistics = new LayerStatistics(needs, columns, CPU);
    statistics.Observe(inputs);
    LayerContext layer = statistics.Context("model.layers.0.self_attn.q_proj.weight", weight);
    Pattern half = Pattern.Unstructured(0.5);
    if (method == "sparsegpt")
    {
        return new SparseGpt().Prune(layer, half, 0.5).Weight.DetachFromDisposeScope();
    }

    Tensor keep = MaskSelection.Choose(new Wanda(), layer, half, Scope.Row, 0.5);
    Tensor pruned = MaskSelection.Apply(weight, keep);
    return method == "wanda"
        ? pruned.DetachFromDisposeScope()
        : new DSnoT { CycleShare = 1, Skip = "none" }.Repair(layer, new PrunedLayer(pruned, keep), half).Weight.DetachFromDisposeScope();
}

Tensor Read(string name, params long[] shape)
{
    byte[] bytes = File.ReadAllBytes(Path.Combine(folder, name));
    return tensor(MemoryMarshal.Cast<byte, float>(bytes).ToArray()).reshape(shape);
}

long Number(int i) => long.Parse(args[i], CultureInfo.InvariantCulture);
