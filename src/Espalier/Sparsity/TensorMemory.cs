using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>Direct access to the numbers of a tensor, for the few loops that torch has no fast form of.</summary>
internal static unsafe class TensorMemory
{
    /// <summary>The first element of a contiguous CPU tensor. Valid while the tensor lives; the caller keeps it alive.</summary>
    /// <remarks>Taken from a view of one element because a span over the whole would end at two gigabytes.</remarks>
    public static T* Pointer<T>(Tensor tensor)
        where T : unmanaged
    {
        if (!tensor.is_contiguous() || tensor.device_type is not TorchSharp.DeviceType.CPU || tensor.element_size() != sizeof(T))
        {
            throw new ArgumentException($"A contiguous CPU tensor with elements of {sizeof(T)} bytes is needed, not {tensor.dtype} on {tensor.device}.", nameof(tensor));
        }

        if (tensor.numel() == 0)
        {
            return null;
        }

        using Tensor first = tensor.view(-1).narrow(0, 0, 1);
        fixed (byte* pointer = &MemoryMarshal.GetReference(first.bytes))
        {
            return (T*)pointer; // native memory: nothing moves it
        }
    }
}
