using Espalier.Models;
using Espalier.Sparsity.NormalFloats;
using static TorchSharp.torch;
using Parameter = TorchSharp.Modules.Parameter;

namespace Espalier.Methods.Quantization;

/// <summary>A weight in two parts of its own, Q frozen and quantised and s·B·A trained, in place of the weight that it hangs on.</summary>
/// <remarks>A LoRA's factors: with L1·L2 the low-rank part at the start, A = L2/√s and B = L1/√s, so that s·B·A = L1·L2.</remarks>
public sealed class LqLoraAdapter : ILinearAdapter
{
    private readonly Tensor _q; // dense, for products; the packed form is what is stored

    /// <summary>Makes an adapter from its parts.</summary>
    /// <param name="quantised">Q [out, in].</param>
    /// <param name="a">A [r, in]; copied.</param>
    /// <param name="b">B [out, r]; copied.</param>
    /// <param name="scaling">s = alpha/r.</param>
    public LqLoraAdapter(NfMatrix quantised, Tensor a, Tensor b, double scaling)
    {
        using var frozen = no_grad();
        (Quantised, Scaling) = (quantised, scaling);
        A = Models.Parameters.Of(a.detach().to(ScalarType.Float32, copy: true));
        B = Models.Parameters.Of(b.detach().to(ScalarType.Float32, copy: true));
        _q = quantised.ToDense().to(a.device).DetachFromDisposeScope();
    }

    /// <summary>Q.</summary>
    public NfMatrix Quantised { get; }

    /// <summary>A [r, in].</summary>
    public Parameter A { get; }

    /// <summary>B [out, r].</summary>
    public Parameter B { get; }

    /// <summary>s.</summary>
    public double Scaling { get; }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Parameter Value)> Parameters => [("lora_A", A), ("lora_B", B)];

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> Stored =>
    [
        ("lora_A", A), ("lora_B", B), ("nf_codes", tensor(Quantised.Codes.ToArray())), ("nf_scales", tensor(Quantised.Scales.ToArray())),
        ("nf_supers", tensor(Quantised.Supers.ToArray()).to(Quantised.Format.SuperType)), ("nf_offset", tensor(new[] { Quantised.Offset })),
    ];

    /// <summary>The parts as a model's folder holds them: Q, √s·B and √s·A, in the caller's scope.</summary>
    public NfPart Part()
    {
        using var frozen = no_grad();
        double root = Math.Sqrt(Scaling);
        return new NfPart(Quantised, B.detach() * root, A.detach() * root);
    }

    /// <inheritdoc/>
    public Tensor Weight(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        return _q.add(B.mm(A), Scaling).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        return nn.functional.linear(x, _q, bias).add(nn.functional.linear(nn.functional.linear(x, A), B), Scaling).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        A.Dispose();
        B.Dispose();
        _q.Dispose();
        Quantised.Dispose();
    }
}
