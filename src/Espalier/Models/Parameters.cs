using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>How parameters are made: uninitialised, owned by their module and not by the scope that happens to be open.</summary>
internal static class Parameters
{
    private static long _made;

    /// <summary>
    /// The tensors that are alive. TorchSharp's own counter counts a parameter twice, because the tensor that it is made
    /// from gives its handle away without being counted out; parameters made here are taken off again.
    /// </summary>
    internal static long LiveTensors => Tensor.TotalCount - Interlocked.Read(ref _made);

    /// <summary>A parameter of this shape whose values are not set; its memory is touched only when it is filled.</summary>
    public static Parameter Empty(long[] shape, ScalarType type, Device? device)
    {
        return Of(empty(shape, type, device ?? CPU));
    }

    /// <summary>A parameter that takes over a tensor.</summary>
    public static Parameter Of(Tensor data)
    {
        var parameter = new Parameter(data);
        Interlocked.Increment(ref _made);
        parameter.DetachFromDisposeScope();
        return parameter;
    }

    /// <summary>Gives the memory of a parameter back whose values are no longer needed. Its shape stays; every value is NaN, so that a use by mistake shows.</summary>
    /// <param name="used">The parameter.</param>
    public static void Release(Parameter used)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        used.requires_grad = false;
        used.set_(full([1], double.NaN, used.dtype, used.device).expand(used.shape));
    }
}
