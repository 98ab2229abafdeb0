using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Places of a decoder where hidden states [batch, tokens, hidden] can be compared; places add up.</summary>
[Flags]
public enum HiddenPlaces
{
    /// <summary>Nowhere.</summary>
    None = 0,

    /// <summary>What the embedding puts out.</summary>
    Embedding = 1,

    /// <summary>What the first map of attention reads, after its norm, in every block.</summary>
    AttentionInput = 2,

    /// <summary>What the first map of the feed-forward part reads, after its norm, in every block.</summary>
    MlpInput = 4,

    /// <summary>The residual stream behind every block.</summary>
    BlockOutput = 8,
}

/// <summary>Hidden states kept on the way through a decoder, by place and block (block −1 for the embedding). The tensors belong to the scope in which they were kept.</summary>
public sealed class HiddenStates
{
    private readonly Dictionary<(HiddenPlaces Place, int Block), Tensor> _states = [];

    /// <summary>The states of one place of one block.</summary>
    public Tensor this[HiddenPlaces place, int block]
    {
        get => _states[(place, block)];
        private set => _states[(place, block)] = value;
    }

    /// <summary>Which are kept, in the order of the way.</summary>
    public IReadOnlyCollection<(HiddenPlaces Place, int Block)> Kept => _states.Keys;

    /// <summary>Passes ids through the embedding and keeps what is wanted.</summary>
    internal Tensor Through(Embedding embedding, Tensor ids, HiddenPlaces places)
    {
        Tensor hidden = embedding.Forward(ids, 0);
        if (places.HasFlag(HiddenPlaces.Embedding))
        {
            this[HiddenPlaces.Embedding, -1] = hidden;
        }

        return hidden;
    }

    /// <summary>Passes hidden states through a block and keeps what is wanted.</summary>
    internal Tensor Through(DecoderBlock block, Tensor hidden, HiddenPlaces places)
    {
        int last = block.Linears[^1].Stage;
        using InputTap? attention = places.HasFlag(HiddenPlaces.AttentionInput) ? new InputTap(block.Linears[0].Linear) : null;
        using InputTap? feedForward = places.HasFlag(HiddenPlaces.MlpInput) ? new InputTap(block.Linears.First(l => l.Stage == last - 1).Linear) : null;
        Tensor output = block.Forward(hidden);
        if (attention is not null)
        {
            this[HiddenPlaces.AttentionInput, block.Index] = attention.Take();
        }

        if (feedForward is not null)
        {
            this[HiddenPlaces.MlpInput, block.Index] = feedForward.Take();
        }

        if (places.HasFlag(HiddenPlaces.BlockOutput))
        {
            this[HiddenPlaces.BlockOutput, block.Index] = output;
        }

        return output;
    }

    /// <summary>Keeps what a map reads in one forward pass, with its graph.</summary>
    private sealed class InputTap : IDisposable
    {
        private readonly Models.Linear _linear;
        private readonly Action<Tensor>? _before;
        private Tensor? _input;

        public InputTap(Models.Linear linear)
        {
            (_linear, _before) = (linear, linear.InputObserver);
            linear.InputObserver = Observe;
        }

        /// <summary>The input, in the caller's scope.</summary>
        public Tensor Take() => _input!.alias();

        public void Dispose()
        {
            _linear.InputObserver = _before;
            _input?.Dispose();
        }

        private void Observe(Tensor x)
        {
            _before?.Invoke(x);
            _input?.Dispose();
            _input = x.alias().DetachFromDisposeScope();
        }
    }
}
