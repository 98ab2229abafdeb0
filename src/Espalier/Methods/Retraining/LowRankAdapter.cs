using Espalier.Models;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Retraining;

/// <summary>What PERP's adapters have in common: two factors A [r, in] and B [out, r] beside a frozen weight W [out, in] and its mask.</summary>
/// <remarks>
/// The mask is kept beside the weight, so that a kept weight that is 0 by chance still learns and one that becomes 0 is
/// still known as kept. Merging happens in float32 and is rounded to the weight's type once.
/// </remarks>
public abstract class LowRankAdapter : ILinearAdapter
{
    /// <summary>Makes an adapter from its factors.</summary>
    /// <param name="matrix">The frozen weight W [out, in]; only its shape and, without <paramref name="keep"/>, its zeros are read.</param>
    /// <param name="a">A [r, in]; copied.</param>
    /// <param name="b">B [out, r]; copied.</param>
    /// <param name="alpha">The adapter's strength; what is added is multiplied by alpha/r.</param>
    /// <param name="keep">The mask M [out, in], bool, true stays; null takes W ≠ 0, and <see cref="Dense"/> stands for a dense weight.</param>
    /// <param name="name">The linear map's name, for messages.</param>
    /// <exception cref="EspalierException">When the rank does not fit or shapes differ.</exception>
    protected LowRankAdapter(Tensor matrix, Tensor a, Tensor b, double alpha, Tensor? keep, string name)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        long rows = matrix.shape[0], columns = matrix.shape[1], rank = a.shape[0];
        CheckRank(rank, rows, columns, name);
        EspalierException.Require(a.shape.AsSpan().SequenceEqual([rank, columns]) && b.shape.AsSpan().SequenceEqual([rows, rank]),
            $"The adapter of {name} has A [{string.Join(", ", a.shape)}] and B [{string.Join(", ", b.shape)}]; its weight [{rows}, {columns}] needs [r, {columns}] and [{rows}, r].");
        EspalierException.Require(keep is null || keep.numel() == 1 || keep.shape.AsSpan().SequenceEqual(matrix.shape), $"The mask of {name} is [{string.Join(", ", keep?.shape ?? [])}], its weight [{rows}, {columns}]; they must be of one shape.");
        EspalierException.Require(alpha > 0 && double.IsFinite(alpha), $"An alpha of {alpha} is not possible; it is a positive number, usually twice the rank.");
        Name = name;
        Scaling = alpha / rank;
        ScalarType type = a.dtype is ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        A = Models.Parameters.Of(a.detach().to(type, copy: true));
        B = Models.Parameters.Of(b.detach().to(type, copy: true));
        Pruned = (keep is null ? matrix.detach().eq(0) : keep.to(ScalarType.Bool).to(matrix.device).logical_not()).DetachFromDisposeScope();
    }

    /// <summary>The linear map's name.</summary>
    public string Name { get; }

    /// <summary>A [r, in], float32.</summary>
    public Parameter A { get; }

    /// <summary>B [out, r], float32.</summary>
    public Parameter B { get; }

    /// <summary>alpha/r.</summary>
    public double Scaling { get; }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Parameter Value)> Parameters => [("lora_A", A), ("lora_B", B)];

    /// <summary>1 − M [out, in], bool: true is pruned; [1, 1] of a dense weight.</summary>
    protected Tensor Pruned { get; }

    /// <summary>The mask of a dense weight, whose chance zeros may fill: one true for all of it.</summary>
    /// <param name="matrix">The weight.</param>
    public static Tensor Dense(Tensor matrix) => ones([1, 1], ScalarType.Bool, matrix.device);

    /// <summary>Throws unless 1 ≤ r ≤ min(in, out).</summary>
    /// <exception cref="EspalierException">Otherwise, naming the linear map.</exception>
    public static void CheckRank(long rank, long rows, long columns, string name) =>
        EspalierException.Require(rank >= 1 && rank <= Math.Min(rows, columns),
            $"A rank of {rank} does not fit {name} [{rows}, {columns}]; use a rank from 1 to {Math.Min(rows, columns)}.");

    /// <inheritdoc/>
    public virtual Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        return nn.functional.linear(x, Weight(matrix), bias).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public virtual Tensor Merge(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        return Weight(matrix).to(matrix.dtype).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public virtual bool KeepsZeros => true;

    /// <inheritdoc/>
    public Tensor Weight(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        return Effective(Wide(matrix)).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        A.Dispose();
        B.Dispose();
        Pruned.Dispose();
        GC.SuppressFinalize(this);
    }

    /// <summary>The weight that the forward pass uses, with a graph to A and B only.</summary>
    /// <param name="matrix">W [out, in], float32, without a graph.</param>
    protected abstract Tensor Effective(Tensor matrix);

    /// <summary>A ~ U(−1/√in, 1/√in): Kaiming-uniform with a = √5, LoRA's start.</summary>
    internal static Tensor RandomA(Tensor matrix, int rank, Seed seed, string name)
    {
        CheckRank(rank, matrix.shape[0], matrix.shape[1], name);
        using var scope = NewDisposeScope();
        using Generator generator = seed.Generator($"adapter {name}");
        double bound = 1 / Math.Sqrt(matrix.shape[1]);
        return (rand([rank, matrix.shape[1]], ScalarType.Float32, generator: generator) * (2 * bound) - bound).to(matrix.device).MoveToOuterDisposeScope();
    }

    /// <summary>B = 0: the adapted map starts as the pruned one.</summary>
    protected static Tensor ZeroB(Tensor matrix, int rank) => zeros([matrix.shape[0], Math.Max(rank, 1)], ScalarType.Float32, matrix.device);

    // The graph must not reach W, which stays as it is.
    private Tensor Wide(Tensor matrix) => matrix.detach().to(A.dtype);
}
