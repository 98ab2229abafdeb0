using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>A checkpoint that is opened and checked but not loaded: its parts are read one at a time, so that memory holds the largest of them and not the model.</summary>
public sealed class StreamedModel : IDisposable
{
    private readonly Architecture family;
    private readonly IReadOnlyList<IReadOnlyList<string>> blockNames;
    private readonly bool ownsSource;

    /// <summary>Checks the tensors of a checkpoint against its configuration.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="source">The tensors; they stay the caller's.</param>
    /// <exception cref="EspalierException">When tensors are missing, unknown or of the wrong shape.</exception>
    public StreamedModel(ModelConfig config, ITensorSource source)
        : this(config, source, ownsSource: false)
    {
    }

    private StreamedModel(ModelConfig config, ITensorSource source, bool ownsSource)
    {
        NativeLibraries.EnsureLoaded();
        family = Architecture.For(config);
        (Config, Source, this.ownsSource) = (family.Recognize(config, source), source, ownsSource);
        blockNames = Inventory.Require(family, Config, source);
    }

    /// <summary>Opens a checkpoint folder and checks it; nothing is loaded.</summary>
    /// <param name="folder">A folder with config.json and safetensors files.</param>
    /// <exception cref="EspalierException">When the folder holds no checkpoint, or tensors are missing, unknown or of the wrong shape.</exception>
    public static StreamedModel Open(string folder)
    {
        ModelConfig config = ModelConfig.Load(folder);
        Checkpoint checkpoint = Checkpoint.Open(folder);
        try
        {
            return new StreamedModel(config, checkpoint, ownsSource: true);
        }
        catch
        {
            checkpoint.Dispose();
            throw;
        }
    }

    /// <summary>The configuration, with the name prefix that the checkpoint uses.</summary>
    public ModelConfig Config { get; }

    /// <summary>The tensors.</summary>
    public ITensorSource Source { get; }

    /// <summary>The number of decoder blocks.</summary>
    public int BlockCount => Config.LayerCount;

    /// <summary>The checkpoint names of one block's tensors.</summary>
    public IReadOnlyList<string> BlockTensorNames(int index) => blockNames[index];

    /// <summary>Reads the embedding; the caller disposes it.</summary>
    /// <param name="device">Where it is to live; null is the CPU.</param>
    /// <param name="type">The element type to compute in.</param>
    public Embedding LoadEmbedding(Device? device = null, ScalarType type = ScalarType.Float32) =>
        Filled(family.CreateEmbedding(Config, new Placement(device ?? CPU, type)));

    /// <summary>Reads one block; the caller disposes it.</summary>
    /// <param name="index">The block's number, from 0.</param>
    /// <param name="device">Where it is to live; null is the CPU.</param>
    /// <param name="type">The element type to compute in.</param>
    public DecoderBlock LoadBlock(int index, Device? device = null, ScalarType type = ScalarType.Float32)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, BlockCount);
        return Filled(family.CreateBlock(Config, index, new Placement(device ?? CPU, type)));
    }

    /// <summary>Reads the head; the caller disposes it. A tied head reads the token table for itself unless it is given an embedding to share.</summary>
    /// <param name="device">Where it is to live; null is the CPU.</param>
    /// <param name="type">The element type to compute in.</param>
    /// <param name="embedding">A loaded embedding that outlives the head; null: a tied head loads and owns one.</param>
    public OutputHead LoadHead(Device? device = null, ScalarType type = ScalarType.Float32, Embedding? embedding = null)
    {
        if (embedding is not null)
        {
            return Filled(family.CreateHead(Config, embedding, new Placement(device ?? CPU, type)));
        }

        Embedding own = Config.TieWordEmbeddings ? LoadEmbedding(device, type) : family.CreateEmbedding(Config, Placement.Meta);
        OutputHead head = family.CreateHead(Config, own, new Placement(device ?? CPU, type));
        head.Companion = own;
        return Filled(head);
    }

    /// <summary>The logits of one short sequence, with one part in memory at a time.</summary>
    /// <param name="ids">Token ids; at most the model's context.</param>
    /// <param name="device">Where to compute; null is the CPU.</param>
    /// <returns>[1, tokens, vocabulary]; the caller's scope disposes it.</returns>
    public Tensor Logits(long[] ids, Device? device = null)
    {
        using var _ = no_grad();
        using var scope = NewDisposeScope();
        Tensor hidden;
        using (Embedding embedding = LoadEmbedding(device))
        {
            hidden = embedding.Forward(tensor(ids, device: device).unsqueeze(0), 0);
        }

        for (int i = 0; i < BlockCount; i++)
        {
            using var inner = NewDisposeScope();
            using DecoderBlock block = LoadBlock(i, device);
            hidden = block.Forward(hidden).MoveToOuterDisposeScope();
            NativeMemory.Trim();
        }

        using OutputHead head = LoadHead(device);
        return head.Forward(hidden).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (ownsSource)
        {
            (Source as IDisposable)?.Dispose();
        }
    }

    private T Filled<T>(T part)
        where T : ModelPart
    {
        try
        {
            part.Fill(Source);
            part.eval();
            return part;
        }
        catch
        {
            part.Dispose();
            throw;
        }
    }
}
