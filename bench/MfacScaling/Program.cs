// Time and memory of M-FAC's inverse Fisher products against the number of weights d and of gradients m, with fitted exponents:
//   dotnet run --project bench/MfacScaling -c Release
// Each figure is the least processor time of a few repetitions in this process on one thread, one block, float64 inside (the damping is 1e-5);
// memory is by how much the process grew. The exponents are slopes of least squares on logarithms.
using System.Diagnostics;
using System.Globalization;
using Espalier.Methods.Pruning;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
NativeLibraries.EnsureLoaded();
set_num_threads(1);
using var frozen = no_grad();
long[] lengths = [1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22], counts = [16, 32, 64, 128];
const long FixedCount = 32, FixedLength = 1 << 20;
Console.WriteLine($"{Machine.Describe()["processor"]}, one thread\n");
Table("d (m = 32)", [.. lengths.Select(d => (d, Measure(FixedCount, d)))]);
Table("m (d = 2^20)", [.. counts.Select(m => (m, Measure(m, FixedLength)))]);
return 0;

static void Table(string name, (long At, Costs Costs)[] rows)
{
    Console.WriteLine($"| {name} | working in, ms | a product, ms | window: a gradient and a product, ms | static, MB | window, MB |\n|---:|---:|---:|---:|---:|---:|");
    foreach ((long at, Costs c) in rows)
    {
        Console.WriteLine($"| {at} | {c.Setup:0.0} | {c.Product:0.00} | {c.Update:0.00} | {c.StaticBytes / 1e6:0} | {c.WindowBytes / 1e6:0} |");
    }

    string Exponent(Func<Costs, double> of) => Slope([.. rows.Select(r => (Math.Log(r.At), Math.Log(of(r.Costs))))]).ToString("0.00");
    Console.WriteLine($"| exponent | {Exponent(c => c.Setup)} | {Exponent(c => c.Product)} | {Exponent(c => c.Update)} | {Exponent(c => c.StaticBytes)} | {Exponent(c => c.WindowBytes)} |\n");
}

static double Slope((double X, double Y)[] points)
{
    double x = points.Average(p => p.X), y = points.Average(p => p.Y);
    return points.Sum(p => (p.X - x) * (p.Y - y)) / points.Sum(p => (p.X - x) * (p.X - x));
}

static Costs Measure(long count, long length)
{
    using var scope = NewDisposeScope();
    using Generator generator = new Seed(1).Generator("gradients");
    Tensor gradients = randn([count, length], generator: generator), x = randn([length], generator: generator);
    long before = Machine.ResidentBytes;
    InverseFisher? fisher = null;
    double setup = Least(2, () =>
    {
        fisher?.Dispose();
        fisher = new InverseFisher(gradients, 1e-5);
    });
    long held = Machine.ResidentBytes - before;
    double product = Least(5, () => fisher!.Multiply(x).Dispose());
    fisher!.Dispose();
    using var window = new InverseFisherWindow(count, length, 1e-5);
    for (int i = 0; i < count; i++)
    {
        window.Add(gradients[i]);
    }

    double update = Least(3, () =>
    {
        window.Add(x);
        window.Multiply(x).Dispose();
    });
    return new Costs(setup, product, update, held, Machine.ResidentBytes - before);
}

static double Least(int times, Action work)
{
    using var process = Process.GetCurrentProcess();
    double least = double.PositiveInfinity;
    for (int i = 0; i < times; i++)
    {
        process.Refresh();
        TimeSpan before = process.TotalProcessorTime;
        work();
        process.Refresh();
        least = Math.Min(least, (process.TotalProcessorTime - before).TotalMilliseconds);
    }

    return least;
}

/// <summary>Milliseconds and bytes.</summary>
internal sealed record Costs(double Setup, double Product, double Update, long StaticBytes, long WindowBytes);
