using System.Diagnostics;
using System.Reflection;
using Espalier.Catalogue;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Verification;

/// <summary>
/// Runs reference cases through the operations that carry <see cref="ParityOpAttribute"/> and compares what comes out.
/// A case that cannot be read, names an unknown operation or throws has failed; it never ends the run.
/// </summary>
public static class ParityVerifier
{
    private static readonly Lazy<IReadOnlyDictionary<string, Func<ParityCase, IReadOnlyDictionary<string, Tensor>>>> Registered = new(FindOps);

    /// <summary>The names of all operations, in order.</summary>
    public static IReadOnlyList<string> Ops => [.. Registered.Value.Keys.Order(StringComparer.Ordinal)];

    /// <summary>The cases that ship: beside the program, or the checkout that it was built from.</summary>
    /// <exception cref="EspalierException">When there are none.</exception>
    public static string DefaultFolder
    {
        get
        {
            string? root = typeof(ParityVerifier).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>().FirstOrDefault(a => a.Key == "RepositoryRoot")?.Value;
            string[] places = [Path.Combine(AppContext.BaseDirectory, "parity"), Path.Combine(root ?? AppContext.BaseDirectory, "tests", "parity")];
            return places.FirstOrDefault(Directory.Exists)
                ?? throw new EspalierException($"The reference cases that ship were not found (looked in {string.Join(" and ", places)}); name a folder of cases.");
        }
    }

    /// <summary>Searches a folder and the folders in it for cases and runs them.</summary>
    /// <param name="folder">The folder; null for the cases that ship.</param>
    /// <param name="system">Only cases of this system; null for all.</param>
    /// <param name="progress">Told of every case; null for nobody.</param>
    /// <param name="cancellation">Ends the run between two cases.</param>
    /// <exception cref="EspalierException">When the folder does not exist or holds no case (of this system).</exception>
    public static ParityReport Run(string? folder = null, string? system = null, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        folder ??= DefaultFolder;
        List<(string Path, string System, string? Fault)> cases = Find(folder);
        EspalierException.Require(cases.Count > 0, $"The folder {folder} holds no reference cases (safetensors files with 'op' in their metadata); name another.");
        string[] known = [.. cases.Select(c => c.System).Distinct().Order(StringComparer.Ordinal)];
        EspalierException.Require(system is null || known.Contains(system),
            $"The folder {folder} holds no cases of '{system}'; it has {string.Join(", ", known)}.{(system is null ? "" : NearestWord.Suggest(system, known))}");

        var results = new List<ParityResult>();
        var chosen = cases.Where(c => system is null || c.System == system).ToList();
        using IProgressTask task = (progress ?? SilentProgress.Instance).Begin("verifying", chosen.Count, "case");
        foreach ((string path, string owner, string? fault) in chosen)
        {
            cancellation.ThrowIfCancellationRequested();
            string relative = Path.GetRelativePath(folder, path);
            task.Describe(relative);
            results.Add(fault is null ? RunCase(path, relative, owner) : new ParityResult(relative, owner, "", fault, double.NaN, TimeSpan.Zero));
            task.Advance();
        }

        return new ParityReport(results);
    }

    private static ParityResult RunCase(string path, string relative, string system)
    {
        var watch = Stopwatch.StartNew();
        string op = "";
        double largest = double.NaN;
        string? failure;
        using var scope = NewDisposeScope();
        try
        {
            ParityCase read = ParityCase.Read(path)!;
            op = read.Op;
            failure = Registered.Value.TryGetValue(op, out var run)
                ? Compare(read, run(read), out largest)
                : $"no operation '{op}' is known.{NearestWord.Suggest(op, Ops)}";
        }
        catch (Exception fault) when (fault is not OutOfMemoryException)
        {
            // Whatever an operation throws is this case's failure; the others still run.
            failure = fault is EspalierException ? OneLine(fault.Message) : $"{fault.GetType().Name}: {OneLine(fault.Message)}";
        }

        return new ParityResult(relative, system, op, failure, largest, watch.Elapsed);
    }

    private static string? Compare(ParityCase expected, IReadOnlyDictionary<string, Tensor> ours, out double largest)
    {
        largest = double.NaN;
        if (expected.Expected.Count == 0)
        {
            return "the case has no outputs to compare";
        }

        var failures = new List<string>();
        foreach ((string name, Tensor theirs) in expected.Expected)
        {
            if (!ours.TryGetValue(name, out Tensor? output))
            {
                failures.Add($"{name} is missing (there are {string.Join(", ", ours.Keys)})");
                continue;
            }

            (string? difference, double error) = ParityComparison.Compare(name, output, theirs, expected.Rtol, expected.Atol);
            largest = double.IsNaN(largest) || error > largest ? error : largest;
            if (difference is not null)
            {
                failures.Add(difference);
            }
        }

        return failures.Count == 0 ? null : string.Join("; ", failures);
    }

    private static List<(string Path, string System, string? Fault)> Find(string folder)
    {
        EspalierException.Require(Directory.Exists(folder), $"The folder {folder} does not exist; name one with reference cases.");
        var found = new List<(string, string, string?)>();
        foreach (string path in Directory.EnumerateFiles(folder, "*.safetensors", SearchOption.AllDirectories).Order(StringComparer.Ordinal))
        {
            try
            {
                if (ParityCase.SystemOf(path) is { } system)
                {
                    found.Add((path, system, null));
                }
            }
            catch (Exception fault) when (fault is EspalierException or IOException or UnauthorizedAccessException)
            {
                // Whose case a damaged file was, only its folder can say.
                found.Add((path, Path.GetFileName(Path.GetDirectoryName(Path.GetFullPath(path))!), OneLine(fault.Message)));
            }
        }

        return found;
    }

    private static Dictionary<string, Func<ParityCase, IReadOnlyDictionary<string, Tensor>>> FindOps()
    {
        var ops = new Dictionary<string, Func<ParityCase, IReadOnlyDictionary<string, Tensor>>>(StringComparer.Ordinal);
        foreach (MethodInfo method in MethodCatalogue.OwnAssemblies().SelectMany(MethodCatalogue.TypesOf)
            .SelectMany(t => t.GetMethods(BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.DeclaredOnly)))
        {
            foreach (ParityOpAttribute op in method.GetCustomAttributes<ParityOpAttribute>())
            {
                if (!ops.TryAdd(op.Op, method.CreateDelegate<Func<ParityCase, IReadOnlyDictionary<string, Tensor>>>()))
                {
                    throw new InvalidOperationException($"Two methods carry the operation {op.Op}; one is {method.DeclaringType}.{method.Name}.");
                }
            }
        }

        return ops;
    }

    private static string OneLine(string text) => text.Split('\n')[0].Trim();
}
