using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>
/// A model that answers and is not trained. Resident, it is loaded once; streamed, its parts are read one after the other for
/// every batch, so that memory holds the largest of them. Both give the same numbers.
/// </summary>
public abstract class DistillationTeacher : IDisposable
{
    private DistillationTeacher(ModelConfig config) => Config = config;

    /// <summary>Its configuration.</summary>
    public ModelConfig Config { get; }

    /// <summary>Loads a teacher whole.</summary>
    /// <param name="model">The checkpoint; it must stay open no longer than this call.</param>
    /// <param name="device">Where it computes.</param>
    /// <param name="progress">Told part by part.</param>
    public static DistillationTeacher Resident(StreamedModel model, Device device, IProgressSink progress) => new InMemory(model, device, progress);

    /// <summary>A teacher that reads its parts anew for every batch.</summary>
    /// <param name="model">The checkpoint; it must stay open as long as the teacher.</param>
    /// <param name="device">Where it computes.</param>
    public static DistillationTeacher Streamed(StreamedModel model, Device device) => new FromCheckpoint(model, device);

    /// <summary>What the last block puts out, without gradient.</summary>
    /// <param name="ids">Token ids [batch, tokens], int64.</param>
    /// <param name="places">Where hidden states are kept as well.</param>
    /// <param name="blocks">The blocks whose states are kept; null keeps those of all.</param>
    /// <returns>[batch, tokens, hidden] and the states that were kept, in the caller's scope.</returns>
    public (Tensor Last, HiddenStates Kept) Answer(Tensor ids, HiddenPlaces places = HiddenPlaces.None, IReadOnlySet<int>? blocks = null)
    {
        using var frozen = no_grad();
        var kept = new HiddenStates();
        Embedding embedding = OpenEmbedding();
        Tensor hidden = kept.Through(embedding, ids, places);
        Close(embedding);
        for (int i = 0; i < Config.LayerCount; i++)
        {
            HiddenPlaces here = blocks is null || blocks.Contains(i) ? places : HiddenPlaces.None;
            Tensor input = hidden;
            DecoderBlock block = OpenBlock(i);
            hidden = kept.Through(block, input, here);
            Close(block);
            if (places is HiddenPlaces.None)
            {
                input.Dispose();
            }
        }

        return (hidden, kept);
    }

    /// <summary>Hands out the head for as long as some work takes.</summary>
    public void WithHead(Action<OutputHead> work)
    {
        OutputHead head = OpenHead();
        try
        {
            work(head);
        }
        finally
        {
            Close(head);
        }
    }

    /// <inheritdoc/>
    public abstract void Dispose();

    private protected abstract Embedding OpenEmbedding();

    private protected abstract DecoderBlock OpenBlock(int index);

    private protected abstract OutputHead OpenHead();

    private protected abstract void Close(ModelPart part);

    private sealed class InMemory(StreamedModel model, Device device, IProgressSink progress) : DistillationTeacher(model.Config)
    {
        private readonly LanguageModel _model = LanguageModel.Load(model.Config, model.Source, device, progress);

        public override void Dispose() => _model.Dispose();

        private protected override Embedding OpenEmbedding() => _model.Embedding;

        private protected override DecoderBlock OpenBlock(int index) => _model.Blocks[index];

        private protected override OutputHead OpenHead() => _model.Head;

        private protected override void Close(ModelPart part)
        {
        }
    }

    private sealed class FromCheckpoint(StreamedModel model, Device device) : DistillationTeacher(model.Config)
    {
        public override void Dispose()
        {
        }

        private protected override Embedding OpenEmbedding() => model.LoadEmbedding(device);

        private protected override DecoderBlock OpenBlock(int index) => model.LoadBlock(index, device);

        private protected override OutputHead OpenHead() => model.LoadHead(device);

        private protected override void Close(ModelPart part) => part.Dispose();
    }
}
