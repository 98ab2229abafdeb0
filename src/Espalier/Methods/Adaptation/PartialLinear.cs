using Espalier.Models;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// A linear map of which a range of outputs (rows of W) or inputs (columns) is trained in place: the trained tensor is that part of W itself. The forward
/// pass is the plain product with W as a constant, plus a product with the part less itself: that adds zero and carries the part's gradient. So the backward
/// pass makes the gradient of the part alone, from the part of the input that it needs, and none of the rest.
/// </summary>
internal sealed class PartialLinear : ILinearAdapter
{
    /// <param name="matrix">W [out, in], a view of the stored weight; the part shares its memory.</param>
    /// <param name="axis">0 trains rows (outputs), 1 columns (inputs).</param>
    /// <param name="start">The first row or column.</param>
    /// <param name="end">The one behind the last.</param>
    public PartialLinear(Tensor matrix, int axis, long start, long end)
    {
        (Axis, Start, End) = (axis, start, end);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Part = Models.Parameters.Of(matrix.detach().narrow(axis, start, end - start));
    }

    /// <summary>0 rows, 1 columns.</summary>
    public int Axis { get; }

    /// <summary>The first row or column that is trained.</summary>
    public long Start { get; }

    /// <summary>The one behind the last.</summary>
    public long End { get; }

    /// <summary>[end − start, in] or [out, end − start]: memory of W.</summary>
    public Parameter Part { get; }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Parameter Value)> Parameters => [("part", Part)];

    /// <inheritdoc/>
    public bool KeepsZeros => true;

    /// <inheritdoc/>
    public Tensor Weight(Tensor matrix) => matrix.detach().clone();

    /// <inheritdoc/>
    public Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        Tensor y = nn.functional.linear(x, matrix.detach(), bias?.detach());
        if (is_grad_enabled())
        {
            // A copy of the columns alone: a view would keep the whole input alive.
            Tensor seen = Axis == 0 ? x : x.narrow(-1, Start, End - Start).contiguous(), more = nn.functional.linear(seen, Part - Part.detach());
            y = Axis == 0 ? y + nn.functional.pad(more, [Start, y.shape[^1] - End]) : y + more;
        }

        return y.MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose() => Part.Dispose();
}
