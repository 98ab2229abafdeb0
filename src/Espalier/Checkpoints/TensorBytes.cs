using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Checkpoints;

/// <summary>Moves a tensor's memory in pieces: a span ends at 2 GB, a tensor does not.</summary>
internal static class TensorBytes
{
    private const long PieceBytes = 16L << 20;

    /// <summary>What is done with one piece.</summary>
    /// <param name="piece">Its memory.</param>
    /// <param name="offset">Its first byte, counted from the tensor's.</param>
    public delegate void PieceAction(Span<byte> piece, long offset);

    /// <summary>Visits the memory of a contiguous tensor on the CPU, first byte to last.</summary>
    /// <param name="tensor">The tensor.</param>
    /// <param name="action">What to do with each piece; at most 16 MB come at once.</param>
    public static void ForEachPiece(Tensor tensor, PieceAction action)
    {
        if (tensor.NumberOfElements == 0)
        {
            return;
        }

        long elementSize = tensor.ElementSize;
        long perPiece = Math.Max(1, PieceBytes / elementSize);
        using Tensor detached = tensor.detach();
        using Tensor flat = detached.view(-1);
        for (long start = 0; start < flat.NumberOfElements; start += perPiece)
        {
            using Tensor piece = flat.narrow(0, start, Math.Min(perPiece, flat.NumberOfElements - start));
            action(piece.bytes, start * elementSize);
        }
    }

    /// <summary>The tensor as it is to be stored: on the CPU, contiguous, of the planned type; the caller disposes it.</summary>
    /// <exception cref="EspalierException">When its shape is not the planned one.</exception>
    public static Tensor Prepare(Tensor tensor, TensorInfo planned)
    {
        EspalierException.Require(
            tensor.shape.AsSpan().SequenceEqual(planned.Shape.ToArray()),
            $"Tensor '{planned.Name}' has shape [{string.Join(", ", tensor.shape)}] but [{string.Join(", ", planned.Shape)}] was planned.");
        ScalarType wanted = ElementTypes.ScalarTypeOf(planned.ElementType);
        if (planned.ElementType.StartsWith("F8", StringComparison.Ordinal))
        {
            EspalierException.Require(
                tensor.dtype == ScalarType.Byte,
                $"Tensor '{planned.Name}' is to be stored as {planned.ElementType} and must come as the finished bytes (uint8), not as {tensor.dtype}.");
        }

        using var scope = NewDisposeScope();
        return tensor.detach().to(wanted).cpu().contiguous().MoveToOuterDisposeScope();
    }
}
