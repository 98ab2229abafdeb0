using static TorchSharp.torch;

namespace Espalier.Runtime;

/// <summary>Turns the words <c>cpu</c>, <c>cuda</c>, <c>cuda:N</c> and <c>auto</c> into a device.</summary>
public static class ComputeDevice
{
    /// <summary>Reads a device word. <c>auto</c> is CUDA when it is there, else the CPU.</summary>
    /// <exception cref="EspalierException">For an unknown word, or CUDA where it is not to be had.</exception>
    public static Device Parse(string word)
    {
        NativeLibraries.EnsureLoaded();
        switch (word)
        {
            case "cpu":
                return CPU;
            case "auto":
                return NativeLibraries.HasCuda && cuda.is_available() ? CUDA : CPU;
            case "cuda":
            case { } indexed when indexed.StartsWith("cuda:", StringComparison.Ordinal):
                EspalierException.Require(NativeLibraries.HasCuda,
                    $"CUDA was asked for, but the libtorch in {NativeLibraries.Folder} is the CPU build; set {NativeLibraries.FolderVariable} to a folder with libtorch 2.10 for CUDA, or use --device cpu.");
                EspalierException.Require(cuda.is_available(), "CUDA was asked for, but libtorch sees no usable GPU; check the driver with nvidia-smi, or use --device cpu.");
                return new Device(word);
            default:
                throw new EspalierException($"'{word}' is no device; use cpu, cuda, cuda:N or auto.");
        }
    }
}
