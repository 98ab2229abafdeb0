using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using TorchSharp;

namespace Espalier.Runtime;

/// <summary>
/// Finds and loads libtorch and TorchSharp's native half before anything touches a tensor.
/// </summary>
/// <remarks>
/// Half a gigabyte of libraries is kept once per checkout (<c>artifacts/native</c>) and not beside every program.
/// Loading the files here by their full path first means that TorchSharp, which asks for them by bare name, gets these.
/// Places looked at, in order: <c>ESPALIER_NATIVE</c>, the program's own folder (a published tool), the checkout it was built from.
/// </remarks>
public static class NativeLibraries
{
    /// <summary>The environment variable that names a folder with other libraries (for example a CUDA build of libtorch).</summary>
    public const string FolderVariable = "ESPALIER_NATIVE";

    private static readonly Lazy<string> Loaded = new(LoadOnce, LazyThreadSafetyMode.ExecutionAndPublication);

    /// <summary>The folder that the libraries were loaded from; loads them when they are not loaded yet.</summary>
    /// <exception cref="EspalierException">When they are missing, or the system refuses them.</exception>
    public static string Folder => Loaded.Value;

    /// <summary>Whether the folder in use holds libtorch's CUDA half.</summary>
    public static bool HasCuda => File.Exists(Path.Combine(Folder, LibraryName("torch_cuda")));

    /// <summary>Loads the libraries; calling it again does nothing.</summary>
    /// <exception cref="EspalierException">When they are missing, or the system refuses them.</exception>
    public static void EnsureLoaded() => _ = Folder;

#pragma warning disable CA2255 // a library's module initializer: TorchSharp must not look for its libraries before this has
    [ModuleInitializer]
    internal static void LoadEarly()
    {
        try
        {
            EnsureLoaded();
        }
        catch (EspalierException)
        {
            // Not fatal here: a program that only shows help needs no tensors. The first one that does gets the sentence.
        }
    }
#pragma warning restore CA2255

    private static string LoadOnce()
    {
        HiddenCaches.BeforeLoading();
        string folder = FindFolder();
        string[] inOrder = RuntimeInformation.IsOSPlatform(OSPlatform.Windows)
            ? ["c10", "torch_cpu", "torch", "LibTorchSharp"]
            : ["c10", "torch_cpu", "torch", "LibTorchSharp"];
        nint torchCpu = 0;
        foreach (string name in inOrder)
        {
            string path = Path.Combine(folder, LibraryName(name));
            try
            {
                nint library = NativeLibrary.Load(path);
                torchCpu = name == "torch_cpu" ? library : torchCpu;
            }
            catch (Exception fault) when (fault is DllNotFoundException or BadImageFormatException)
            {
                throw new EspalierException(
                    $"The native library {path} was refused by the system ({fault.Message.Split('\n')[0].Trim()}); `espalier doctor` says what is missing.", fault);
            }
        }

        HiddenCaches.AfterLoading(torchCpu);
        if (HasCudaFile(folder))
        {
            torch.InitializeDeviceType(DeviceType.CUDA);
        }

        return folder;
    }

    private static string FindFolder()
    {
        var looked = new List<string?>
        {
            Environment.GetEnvironmentVariable(FolderVariable),
            AppContext.BaseDirectory,
            Path.Combine(AppContext.BaseDirectory, "native"),
            typeof(NativeLibraries).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>()
                .FirstOrDefault(a => a.Key == "NativeFolder")?.Value,
        };
        string wanted = LibraryName("LibTorchSharp");
        return looked.FirstOrDefault(f => !string.IsNullOrEmpty(f) && File.Exists(Path.Combine(f, wanted)))
            ?? throw new EspalierException(
                $"The native libraries of libtorch were not found (looked for {wanted} in {string.Join(", ", looked.Where(f => !string.IsNullOrEmpty(f)))}); build the project once, or set {FolderVariable} to their folder.");
    }

    private static bool HasCudaFile(string folder) => File.Exists(Path.Combine(folder, LibraryName("torch_cuda")));

    private static string LibraryName(string name) =>
        RuntimeInformation.IsOSPlatform(OSPlatform.Windows) ? name + ".dll"
        : RuntimeInformation.IsOSPlatform(OSPlatform.OSX) ? $"lib{name}.dylib"
        : $"lib{name}.so";
}
