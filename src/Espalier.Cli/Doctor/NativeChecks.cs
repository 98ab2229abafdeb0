using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using Espalier.Runtime;
using TorchSharp;

namespace Espalier.Cli.Doctor;

/// <summary>The native half: does it load, what was changed in it, and does it compute right.</summary>
internal static class NativeChecks
{
    private static readonly string[] UsualFolders =
        ["/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];

    public static IEnumerable<Check> All()
    {
        (string? folder, string? refused) = Load();
        if (RuntimeInformation.IsOSPlatform(OSPlatform.Linux))
        {
            yield return StandardLibrary();
        }

        if (RuntimeInformation.IsOSPlatform(OSPlatform.Windows))
        {
            yield return new Check("Windows", Health.Warn, "TorchSharp 0.107.0 with libtorch 2.10.0 is known not to load here",
                "Use WSL or Linux until a fixed TorchSharp can be had (its tracker, issue 1567).");
        }

        yield return folder is null
            ? new Check("native libraries", Health.Fail, refused!, "Build the project again (./espalier does), or set ESPALIER_NATIVE to a folder with TorchSharp's and libtorch's libraries.")
            : new Check("native libraries", Health.Ok, folder);
        if (folder is null)
        {
            yield break;
        }

        yield return Laid(folder);
        yield return Computes();
        yield return Convolves();
        yield return Gpu();
    }

    private static (string? Folder, string? Refused) Load()
    {
        try
        {
            return (NativeLibraries.Folder, null);
        }
        catch (EspalierException fault)
        {
            return (null, fault.Message);
        }
    }

    private static Check StandardLibrary()
    {
        string? path = LoadedPath() ?? UsualFolders.Select(f => Path.Combine(f, "libstdc++.so.6")).FirstOrDefault(File.Exists);
        if (path is null)
        {
            return new Check("libstdc++", Health.Warn, "not found in the usual places", "Install it (Debian and Ubuntu: libstdc++6).");
        }

        int newest = NewestSymbolVersion(File.ReadAllBytes(path));
        string found = $"GLIBCXX_3.4.{newest} ({path})";
        return newest >= 30
            ? new Check("libstdc++", Health.Ok, found)
            : new Check("libstdc++", Health.Fail, found, "libtorch needs GLIBCXX_3.4.30 (GCC 12): use Debian 12, Ubuntu 22.04, RHEL 9 with gcc-toolset-12, or newer.");
    }

    /// <summary>The highest N of the marks GLIBCXX_3.4.N in the library.</summary>
    internal static int NewestSymbolVersion(ReadOnlySpan<byte> image)
    {
        ReadOnlySpan<byte> mark = "GLIBCXX_3.4."u8;
        int newest = 0;
        for (int at; (at = image.IndexOf(mark)) >= 0;)
        {
            image = image[(at + mark.Length)..];
            int digits = 0;
            while (digits < image.Length && digits < 4 && char.IsAsciiDigit((char)image[digits]))
            {
                digits++;
            }

            if (digits > 0)
            {
                newest = Math.Max(newest, int.Parse(Encoding.ASCII.GetString(image[..digits]), System.Globalization.CultureInfo.InvariantCulture));
            }
        }

        return newest;
    }

    private static string? LoadedPath()
    {
        try
        {
            return File.ReadLines("/proc/self/maps")
                .Where(l => l.Contains("/libstdc++.so", StringComparison.Ordinal))
                .Select(l => l[l.IndexOf('/', StringComparison.Ordinal)..].Trim())
                .FirstOrDefault(File.Exists);
        }
        catch (IOException)
        {
            return null;
        }
    }

    private static Check Laid(string folder)
    {
        string path = Path.Combine(folder, "libraries.json");
        if (!File.Exists(path))
        {
            return new Check("TorchSharp, libtorch", Health.Ok, $"libtorch {torch.__version__}; libraries that Espalier's build did not lay");
        }

        using JsonDocument laid = JsonDocument.Parse(File.ReadAllText(path));
        string Text(string name) => laid.RootElement.GetProperty(name).GetString()!;
        string change = string.Join("; ", laid.RootElement.GetProperty("libraries").EnumerateArray()
            .Select(l => $"{l.GetProperty("file").GetString()}: {l.GetProperty("change").GetString()}"));
        string found = $"TorchSharp {Text("torchSharp")}, libtorch {Text("libtorch")} ({change})";
        return change.Contains("failed:", StringComparison.Ordinal)
            ? new Check("TorchSharp, libtorch", Health.Warn, found, "Nothing, as long as the line above says that the libraries load; otherwise a system with GCC 13's libstdc++ is needed.")
            : new Check("TorchSharp, libtorch", Health.Ok, found);
    }

    private static Check Computes()
    {
        try
        {
            using var scope = torch.NewDisposeScope();
            var clock = System.Diagnostics.Stopwatch.StartNew();
            const int size = 512, runs = 4;
            torch.Tensor x = torch.ones(size, size);
            torch.Tensor product = torch.mm(x, x);
            clock.Restart();
            for (int i = 0; i < runs; i++)
            {
                product = torch.mm(x, x);
            }

            double rate = 2.0 * size * size * size * runs / clock.Elapsed.TotalSeconds / 1e9;
            bool right = product.sum().item<float>() == (float)size * size * size;
            string found = FormattableString.Invariant($"matrix product {(right ? "right" : "wrong")}, {rate:0} GFLOP/s in float32 on {torch.get_num_threads()} threads");
            return right
                ? new Check("computing", Health.Ok, found)
                : new Check("computing", Health.Fail, found, "The libraries are damaged or do not belong together; delete artifacts/native and build again.");
        }
        catch (ExternalException fault)
        {
            return new Check("computing", Health.Fail, fault.Message.Split('\n')[0], "The libraries do not belong together; delete artifacts/native and build again.");
        }
    }

    // Channels that fill no block of oneDNN's.
    private static Check Convolves()
    {
        double worst = Math.Max(new ConvolutionCheck(20, 16, 3).Error(), new ConvolutionCheck(16, 20, 3).Error());
        string about = HiddenCaches.Remedy is { } remedy ? $"; this machine hides its cache sizes, which oneDNN misreads: {remedy}" : "";
        return worst < ConvolutionCheck.Tolerance
            ? new Check("convolutions", Health.Ok, $"right{about}")
            : new Check("convolutions", Health.Fail, FormattableString.Invariant($"wrong by up to {100 * worst:0.##} %{about}"), $"Vision nets cannot be trusted here; unset {HiddenCaches.LimitVariable}, or set it to SSE41 and run this again.");
    }

    private static Check Gpu()
    {
        if (!NativeLibraries.HasCuda)
        {
            return new Check("GPU", Health.Ok, "none in use: this libtorch is the CPU build (ESPALIER_NATIVE can name a folder with CUDA's)");
        }

        return torch.cuda.is_available()
            ? new Check("GPU", Health.Ok, $"{torch.cuda.device_count()} CUDA device(s)")
            : new Check("GPU", Health.Warn, "libtorch has CUDA but sees no usable device", "Check the driver with nvidia-smi, or use --device cpu.");
    }
}
