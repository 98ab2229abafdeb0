using System.Globalization;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>How an optimiser holds its state.</summary>
/// <param name="Bits">32 (default), or 8: codes with a scale per block (<see cref="EightBit"/>).</param>
/// <param name="From">Tensors with fewer elements stay in float32. Default 4096.</param>
/// <param name="Block">Values that share a scale. Default 256.</param>
public sealed record StateStorage(int Bits = 32, long From = StateStorage.DefaultFrom, long Block = EightBit.DefaultBlock)
{
    /// <summary>The fewest elements of a tensor that is held in 8 bits, as in bitsandbytes.</summary>
    public const long DefaultFrom = 4096;

    /// <summary>For an optimiser's description; nothing for 32 bits.</summary>
    public override string ToString() => Bits == 32 ? "" : string.Create(CultureInfo.InvariantCulture, $" state in {Bits} bits from {From} elements, blocks of {Block}");
}

/// <summary>A kind of state of an optimiser.</summary>
/// <param name="Name">Its name ("exp_avg").</param>
/// <param name="Signed">Whether its values may be negative.</param>
internal sealed record SlotKind(string Name, bool Signed = true);

/// <summary>One tensor of an optimiser's state, all zeros at first, in float32 or as 8-bit codes.</summary>
internal sealed class StateSlot : IDisposable
{
    private const string Codes = ".codes", Largest = ".largest";

    private readonly bool _signed;
    private readonly long _block;
    private readonly Tensor _values; // float32, or the codes
    private readonly Tensor? _largest;

    /// <summary>Makes a slot of zeros; it is no scope's.</summary>
    public StateSlot(SlotKind kind, long[] shape, ScalarType type, Device device, StateStorage storage)
    {
        using var scope = NewDisposeScope();
        (_signed, _block) = (kind.Signed, storage.Block);
        Tensor values = zeros(shape, type, device);
        if (storage.Bits == 8 && values.numel() >= storage.From)
        {
            (values, Tensor largest) = EightBit.Encode(values, _signed, _block);
            _largest = largest.DetachFromDisposeScope();
        }

        _values = values.DetachFromDisposeScope();
    }

    /// <summary>Its shape.</summary>
    public long[] Shape => _values.shape;

    /// <summary>The values: the tensor itself, or decoded ones in the caller's scope; changes of these count only after <see cref="Write"/>.</summary>
    public Tensor Read() => _largest is null ? _values : EightBit.Decode(_values, _largest, _signed, _block);

    /// <summary>Keeps what was read and then changed in place.</summary>
    public void Write(Tensor changed)
    {
        if (_largest is not null)
        {
            using var scope = NewDisposeScope();
            (Tensor codes, Tensor largest) = EightBit.Encode(changed, _signed, _block);
            _values.copy_(codes);
            _largest.copy_(largest);
        }
    }

    /// <summary>Its tensors as they are held.</summary>
    public IEnumerable<(string Name, Tensor Value)> Save(string name) =>
        _largest is null ? [(name, _values)] : [(name + Codes, _values), (name + Largest, _largest)];

    /// <summary>Copies saved tensors in.</summary>
    /// <exception cref="EspalierException">When one is missing or shaped otherwise.</exception>
    public void Load(string name, IReadOnlyDictionary<string, Tensor> state)
    {
        foreach ((string part, Tensor own) in Save(name))
        {
            EspalierException.Require(state.TryGetValue(part, out Tensor? saved) && saved.shape.AsSpan().SequenceEqual(own.shape),
                $"The optimizer state has no tensor {part} of shape [{string.Join(", ", own.shape)}]; start the training anew.");
            own.copy_(saved);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _values.Dispose();
        _largest?.Dispose();
    }
}
