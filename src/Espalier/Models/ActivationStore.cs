using Espalier.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>
/// The hidden states of many sequences between two blocks, [sequences, tokens, hidden] float32:
/// in memory, or in a file when they would break the memory budget.
/// </summary>
public abstract class ActivationStore : IDisposable
{
    /// <summary>The number of sequences.</summary>
    public required int Count { get; init; }

    /// <summary>Reads sequences [from, from + count) as [count, tokens, hidden].</summary>
    public abstract Tensor Read(int from, int count);

    /// <summary>Replaces sequences from <paramref name="from"/> on with the rows of [count, tokens, hidden].</summary>
    public abstract void Write(int from, Tensor hidden);

    /// <inheritdoc/>
    public abstract void Dispose();

    /// <summary>The bytes that so many hidden states take.</summary>
    public static long Bytes(int count, long tokens, long hidden) => checked(count * tokens * hidden * sizeof(float));

    /// <summary>Makes room for hidden states.</summary>
    /// <param name="count">Sequences.</param>
    /// <param name="tokens">Tokens per sequence.</param>
    /// <param name="hidden">The model's width.</param>
    /// <param name="device">Where <see cref="Read"/> answers.</param>
    /// <param name="spillFolder">A folder for the file; null keeps them in memory.</param>
    /// <exception cref="EspalierException">When the file cannot be made (no space, no rights).</exception>
    public static ActivationStore Create(int count, long tokens, long hidden, Device device, string? spillFolder) =>
        spillFolder is null
            ? new InMemory(count, tokens, hidden, device)
            : new InFile(count, tokens, hidden, device, spillFolder);

    private sealed class InMemory : ActivationStore
    {
        private readonly Tensor _states;

        [System.Diagnostics.CodeAnalysis.SetsRequiredMembers]
        public InMemory(int count, long tokens, long hidden, Device device)
        {
            Count = count;
            _states = empty([count, tokens, hidden], ScalarType.Float32, device).DetachFromDisposeScope();
        }

        public override Tensor Read(int from, int count) => _states.narrow(0, from, count);

        public override void Write(int from, Tensor hidden)
        {
            using var target = _states.narrow(0, from, hidden.shape[0]);
            using var _ = target.copy_(hidden);
        }

        public override void Dispose() => _states.Dispose();
    }

    private sealed class InFile : ActivationStore
    {
        private readonly FileStream _file;
        private readonly long _tokens;
        private readonly long _hidden;
        private readonly Device _device;

        [System.Diagnostics.CodeAnalysis.SetsRequiredMembers]
        public InFile(int count, long tokens, long hidden, Device device, string folder)
        {
            (Count, _tokens, _hidden, _device) = (count, tokens, hidden, device);
            long length = Bytes(count, tokens, hidden);
            string path = Path.Combine(folder, $"activations-{Guid.NewGuid():N}.tmp");
            try
            {
                _file = new FileStream(path, new FileStreamOptions
                {
                    Mode = FileMode.CreateNew,
                    Access = FileAccess.ReadWrite,
                    Share = FileShare.None,
                    PreallocationSize = length,
                    Options = FileOptions.DeleteOnClose,
                });
            }
            catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
            {
                throw new EspalierException($"The activations ({Text.Bytes(length)}) do not fit into the folder {folder}: {fault.Message} Free some space or raise --memory.", fault);
            }
        }

        private long SequenceBytes => Bytes(1, _tokens, _hidden);

        public override Tensor Read(int from, int count)
        {
            Tensor states = empty([count, _tokens, _hidden], ScalarType.Float32);
            RandomAccess.Read(_file.SafeFileHandle, states.bytes, from * SequenceBytes);
            return _device.type == DeviceType.CPU ? states : states.to(_device, disposeAfter: true);
        }

        public override void Write(int from, Tensor hidden)
        {
            using var scope = NewDisposeScope();
            Tensor states = hidden.to(CPU).to(ScalarType.Float32).contiguous();
            RandomAccess.Write(_file.SafeFileHandle, states.bytes, from * SequenceBytes);
        }

        public override void Dispose() => _file.Dispose();
    }
}
