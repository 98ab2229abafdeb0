using System.Security.Cryptography;
using System.Text;
using TorchSharp;

namespace Espalier.Runtime;

/// <summary>
/// The one source of chance in a plan. Every consumer asks for its own stream by purpose, so that adding a draw in one
/// place changes nothing in another: same plan, same seed, same bytes.
/// </summary>
/// <param name="Value">The seed that the plan names.</param>
public readonly record struct Seed(long Value)
{
    /// <summary>A seed of its own for one purpose ("calibration", "adapter model.layers.0.mlp.up_proj").</summary>
    public long For(string purpose)
    {
        Span<byte> hash = stackalloc byte[32];
        SHA256.HashData(Encoding.UTF8.GetBytes($"{Value}\n{purpose}"), hash);
        return BitConverter.ToInt64(hash) & long.MaxValue;
    }

    /// <summary>A CPU tensor generator for one purpose; the caller disposes it.</summary>
    public torch.Generator Generator(string purpose) => new((ulong)For(purpose), torch.CPU);

    /// <summary>A plain random number generator for one purpose.</summary>
    /// <remarks>Backed by .NET's seeded algorithm, which is fixed across versions for seeded instances.</remarks>
    public Random Random(string purpose) => new((int)(For(purpose) & int.MaxValue));
}
