using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>Where the parameters of a part are made, and in what element type.</summary>
/// <param name="Device">The device; the meta device gives shapes without memory.</param>
/// <param name="Type">The element type they are kept and computed in; on a CPU anything but float32 is slow.</param>
public sealed record Placement(Device Device, ScalarType Type = ScalarType.Float32)
{
    /// <summary>Float32 on the CPU.</summary>
    public static Placement Default { get; } = new(CPU);

    /// <summary>Shapes only: no memory is taken.</summary>
    internal static Placement Meta { get; } = new(new Device(TorchSharp.DeviceType.META));
}
