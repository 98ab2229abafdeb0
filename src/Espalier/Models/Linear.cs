using Espalier.Models.Decoding;
using TorchSharp.Modules;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Espalier.Models;

/// <summary>How a linear map's weight lies in the checkpoint.</summary>
public enum WeightLayout
{
    /// <summary>[out, in]: almost every model.</summary>
    OutIn,

    /// <summary>[in, out]: GPT-2's Conv1D.</summary>
    InOut,
}

/// <summary>
/// A linear map y = x Wᵀ + b. It keeps its weight as the checkpoint stores it; everything that works on linear maps
/// (pruning, adapters, quantisation) sees it as <see cref="Matrix"/> [out, in] and need not know the layout.
/// </summary>
public sealed class Linear : nn.Module<Tensor, Tensor>
{
    /// <summary>The weight in its stored layout.</summary>
    public Parameter weight;

    /// <summary>The bias [out], or null.</summary>
    public Parameter? bias;

    /// <summary>Makes a map whose parameters hold no values yet: whoever makes it fills them.</summary>
    /// <param name="name">The name shown by the module.</param>
    /// <param name="inFeatures">The width of its input.</param>
    /// <param name="outFeatures">The width of its output.</param>
    /// <param name="bias">Whether it adds a bias.</param>
    /// <param name="layout">How the weight is stored.</param>
    /// <param name="type">The element type.</param>
    /// <param name="device">The device; null is the CPU.</param>
    public Linear(string name, long inFeatures, long outFeatures, bool bias, WeightLayout layout = WeightLayout.OutIn, ScalarType type = ScalarType.Float32, Device? device = null)
        : base(name)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(inFeatures);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(outFeatures);
        (InFeatures, OutFeatures, Layout) = (inFeatures, outFeatures, layout);
        long[] shape = layout is WeightLayout.OutIn ? [outFeatures, inFeatures] : [inFeatures, outFeatures];
        weight = Parameters.Empty(shape, type, device);
        register_parameter(nameof(weight), weight);
        if (bias)
        {
            this.bias = Parameters.Empty([outFeatures], type, device);
            register_parameter(nameof(bias), this.bias);
        }
    }

    internal Linear(string name, long inFeatures, long outFeatures, bool bias, Placement placement, WeightLayout layout = WeightLayout.OutIn)
        : this(name, inFeatures, outFeatures, bias, layout, placement.Type, placement.Device)
    {
    }

    /// <summary>The width of the input.</summary>
    public long InFeatures { get; }

    /// <summary>The width of the output.</summary>
    public long OutFeatures { get; }

    /// <summary>How the weight is stored.</summary>
    public WeightLayout Layout { get; }

    /// <summary>The weight as [out, in]: a view that shares its memory (and its gradient), or a dense copy of a compact one; the caller's scope disposes it.</summary>
    public Tensor Matrix => Compact?.ToDense() ?? (Layout is WeightLayout.OutIn ? weight.alias() : weight.t());

    /// <summary>The weight in a compact form; null where it is dense. While there is one, <see cref="weight"/> has its shape but no values.</summary>
    public ICompactWeight? Compact { get; private set; }

    /// <summary>A trainable change of this map; null for none. Whoever attaches it disposes it.</summary>
    public ILinearAdapter? Adapter { get; set; }

    /// <summary>
    /// Makes the weight that is used from the stored one, at every forward pass and within the gradient's graph (masked, faded
    /// or straight-through weights); the result has the stored layout. Null uses the weight as it is. Not for compact weights.
    /// </summary>
    public Func<Tensor, Tensor>? WeightChange { get; set; }

    /// <summary>Sees the input [..., in] before every product: how calibration watches a layer. Must not keep or change it.</summary>
    public Action<Tensor>? InputObserver { get; set; }

    /// <summary>Takes over a weight in compact form, which is disposed with this map, and gives the dense one's memory back.</summary>
    internal void Use(ICompactWeight compact)
    {
        Compact?.Dispose();
        Compact = compact;
        Parameters.Release(weight);
    }

    /// <summary>Overwrites the weight, in its own layout and element type, outside any gradient.</summary>
    /// <param name="matrix">The new weight [out, in].</param>
    /// <exception cref="ArgumentException">When the shape differs.</exception>
    public void SetMatrix(Tensor matrix)
    {
        if (matrix.dim() != 2 || matrix.shape[0] != OutFeatures || matrix.shape[1] != InFeatures)
        {
            throw new ArgumentException($"The matrix is [{string.Join(", ", matrix.shape)}], the map needs [{OutFeatures}, {InFeatures}].", nameof(matrix));
        }

        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Matrix.copy_(matrix);
    }

    /// <summary>x [..., in] to [..., out].</summary>
    public override Tensor forward(Tensor x)
    {
        InputObserver?.Invoke(x);
        if (Adapter is null && Compact is not null)
        {
            using var scope = NewDisposeScope();
            Tensor y = Compact.Multiply(x);
            return (bias is null ? y : y.add_(bias)).MoveToOuterDisposeScope();
        }

        if (WeightChange is not null)
        {
            using var scope = NewDisposeScope();
            Tensor changed = WeightChange(weight);
            Tensor used = Layout is WeightLayout.OutIn ? changed.alias() : changed.t();
            return (Adapter is null ? nn.functional.linear(x, used, bias) : Adapter.Forward(x, used, bias)).MoveToOuterDisposeScope();
        }

        if (Adapter is null && Layout is WeightLayout.OutIn)
        {
            return nn.functional.linear(x, weight, bias);
        }

        using Tensor matrix = Matrix;
        return Adapter is null ? nn.functional.linear(x, matrix, bias) : Adapter.Forward(x, matrix, bias);
    }

    /// <summary>One vector: what <see cref="forward"/> does, on plain memory.</summary>
    /// <param name="x">[in].</param>
    /// <param name="y">[out].</param>
    internal void Step(ReadOnlySpan<float> x, Span<float> y)
    {
        if (Compact is not null && Adapter is null && InputObserver is null)
        {
            Compact.Multiply(x, y);
            if (bias is not null)
            {
                TensorPrimitives.Add(y, StepMath.Numbers(bias), y);
            }

            return;
        }

        using var scope = NewDisposeScope();
        Tensor input = empty([1, InFeatures]);
        x.CopyTo(StepMath.Numbers(input));
        StepMath.Numbers(call(input)).CopyTo(y);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (disposing)
        {
            Compact?.Dispose();
            Compact = null;
        }
    }
}
