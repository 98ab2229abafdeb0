using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>How parameters are made: uninitialised, owned by their module and not by the scope that happens to be open.</summary>
internal static class Parameters
{
    /// <summary>A parameter of this shape whose values are not set; its memory is touched only when it is filled.</summary>
    public static Parameter Empty(long[] shape, ScalarType type, Device? device)
    {
        Tensor data = empty(shape, type, device ?? CPU);
        var parameter = new Parameter(data);
        parameter.DetachFromDisposeScope();
        return parameter;
    }
}
