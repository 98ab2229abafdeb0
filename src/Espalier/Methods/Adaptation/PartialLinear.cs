using Espalier.Models;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// A linear map of which a range of outputs (rows of W) or inputs (columns) is trained in place: the trained tensor is that part of W itself. The forward
/// pass is the plain product; the backward pass makes the gradient of the part alone, from the part of the input that it needs, and no gradient of the rest.
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
        Tensor y = is_grad_enabled() ? Product.apply(x, matrix.detach(), Part, (long)Axis, Start, End) : nn.functional.linear(x, matrix);
        return (bias is null ? y : y + bias.detach()).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose() => Part.Dispose();

    /// <summary>∂L/∂part: Σ gᵀ x over batch and tokens, of the part's rows or columns.</summary>
    /// <param name="gradient">∂L/∂y [..., out].</param>
    /// <param name="input">x [..., in], or only its trained columns.</param>
    /// <param name="axis">0 rows, 1 columns.</param>
    /// <param name="start">The first row, for rows.</param>
    /// <param name="end">The one behind the last.</param>
    public static Tensor PartGradient(Tensor gradient, Tensor input, int axis, long start, long end)
    {
        using var scope = NewDisposeScope();
        Tensor g = gradient.reshape(-1, gradient.shape[^1]), x = input.reshape(-1, input.shape[^1]);
        Tensor rows = axis == 0 ? g.narrow(1, start, end - start) : g;
        return rows.t().mm(x).MoveToOuterDisposeScope();
    }

    /// <summary>y = x Wᵀ with the partial backward pass.</summary>
    private sealed class Product : autograd.SingleTensorFunction<Product>
    {
        public override string Name => "S2ftPartialProduct";

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (x, matrix) = ((Tensor)vars[0], (Tensor)vars[1]);
            var (axis, start, end) = ((long)vars[3], (long)vars[4], (long)vars[5]);
            // A copy of the columns alone: a view would keep the whole input alive.
            ctx.save_for_backward([axis == 0 ? x : x.narrow(-1, start, end - start).contiguous(), matrix]);
            ctx.save_data("axis", axis);
            ctx.save_data("start", start);
            ctx.save_data("end", end);
            ctx.save_data("needs", x.requires_grad);
            return nn.functional.linear(x, matrix);
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor gradient)
        {
            using var scope = NewDisposeScope();
            List<Tensor> saved = ctx.get_saved_variables();
            saved.ForEach(t => scope.Attach(t));
            Tensor input = saved[0], matrix = saved[1];
            Tensor part = PartGradient(gradient, input, (int)(long)ctx.get_data("axis"), (long)ctx.get_data("start"), (long)ctx.get_data("end"));
            Tensor? below = (bool)ctx.get_data("needs") ? gradient.matmul(matrix) : null;
            return [below?.MoveToOuterDisposeScope()!, null!, part.MoveToOuterDisposeScope(), null!, null!, null!];
        }
    }
}
