using Espalier.Checkpoints;
using Espalier.Models.Decoding;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>A decoder language model that is wholly in memory.</summary>
/// <remarks>Not thread-safe: forward passes share tables that grow on demand.</remarks>
public sealed class LanguageModel : IDisposable
{
    private readonly StepRoom? stepRoom;

    private LanguageModel(ModelConfig config, Placement placement)
    {
        stepRoom = placement.Type is ScalarType.Float32 && placement.Device.type is TorchSharp.DeviceType.CPU ? new StepRoom() : null;
        (Config, Device) = (config, placement.Device);
        Architecture family = Architecture.For(config);
        Embedding = family.CreateEmbedding(config, placement);
        Blocks = [.. Enumerable.Range(0, config.LayerCount).Select(i => family.CreateBlock(config, i, placement))];
        Head = family.CreateHead(config, Embedding, placement);
        foreach (ModelPart part in Parts)
        {
            part.eval();
        }
    }

    /// <summary>Its configuration.</summary>
    public ModelConfig Config { get; private set; }

    /// <summary>Where it lives.</summary>
    public Device Device { get; }

    /// <summary>Token ids to hidden states.</summary>
    public Embedding Embedding { get; }

    /// <summary>The decoder blocks in order.</summary>
    public IReadOnlyList<DecoderBlock> Blocks { get; }

    /// <summary>Hidden states to logits.</summary>
    public OutputHead Head { get; }

    /// <summary>Embedding, blocks and head in order.</summary>
    public IEnumerable<ModelPart> Parts => [Embedding, .. Blocks, Head];

    /// <summary>Every parameter under its checkpoint name; a tied one counts once.</summary>
    public IEnumerable<(string Name, Parameter Value)> Tensors => Parts.SelectMany(part => part.Tensors);

    /// <summary>The number of parameters; tied ones count once.</summary>
    public long ParameterCount => Tensors.Sum(t => t.Value.numel());

    /// <summary>The bytes that the weights take in memory, compact ones as they are.</summary>
    public long WeightBytes => Parts.Sum(p => p.WeightBytes);

    /// <summary>The bytes of weights that are read for one new token: all, but of a token table that the head does not share only one row.</summary>
    public long BytesPerToken => WeightBytes - (Config.TieWordEmbeddings ? 0 : Embedding.WeightBytes);

    /// <summary>The channels of the residual stream, through every part: cut one and the model is narrower by one.</summary>
    public CoupledGroup HiddenChannels =>
        new(CoupledKind.HiddenChannel, "the residual stream", Config.HiddenSize, [.. Parts.SelectMany(part => part.HiddenChannelSlices)]);

    /// <summary>Reads a model from a checkpoint folder.</summary>
    /// <param name="folder">A folder with config.json and safetensors files.</param>
    /// <param name="device">Where it is to live; null is the CPU.</param>
    /// <param name="progress">Told part by part; null for silence.</param>
    /// <param name="type">The element type to keep and compute in.</param>
    /// <exception cref="EspalierException">When the folder holds no checkpoint, or tensors are missing, unknown or of the wrong shape.</exception>
    public static LanguageModel Load(string folder, Device? device = null, IProgressSink? progress = null, ScalarType type = ScalarType.Float32)
    {
        ModelConfig config = ModelConfig.Load(folder);
        using Checkpoint checkpoint = Checkpoint.Open(folder);
        return Load(config, checkpoint, device, progress, type);
    }

    /// <summary>Reads a model from named tensors.</summary>
    /// <param name="config">Its configuration.</param>
    /// <param name="source">Its tensors.</param>
    /// <param name="device">Where it is to live; null is the CPU.</param>
    /// <param name="progress">Told part by part; null for silence.</param>
    /// <param name="type">The element type to keep and compute in.</param>
    /// <param name="compact">Keeps the weights that the source has in a compact form (packed) in that form: for inference in float32 on the CPU.</param>
    /// <exception cref="EspalierException">When tensors are missing, unknown or of the wrong shape.</exception>
    public static LanguageModel Load(ModelConfig config, ITensorSource source, Device? device = null, IProgressSink? progress = null, ScalarType type = ScalarType.Float32, bool compact = false)
    {
        NativeLibraries.EnsureLoaded();
        EspalierException.Require(!compact || (type is ScalarType.Float32 && (device is null || device.type is TorchSharp.DeviceType.CPU)),
            "Compact weights are computed in float32 on the CPU; load the model dense for another type or device.");
        Architecture family = Architecture.For(config);
        config = family.Recognize(config, source);
        Inventory.Require(family, config, source);
        var model = new LanguageModel(config, new Placement(device ?? CPU, type));
        try
        {
            using IProgressTask task = (progress ?? SilentProgress.Instance).Begin("loading the model", model.Blocks.Count + 2, "part");
            foreach (ModelPart part in model.Parts)
            {
                part.Fill(source, compact);
                task.Advance();
            }

            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>Makes a model to train from scratch: weights normal with the configuration's <c>initializer_range</c>, biases zero, norms one.</summary>
    /// <param name="config">Its configuration.</param>
    /// <param name="seed">The same seed gives the same model.</param>
    /// <param name="device">Where it is to live; null is the CPU.</param>
    public static LanguageModel Random(ModelConfig config, Seed seed, Device? device = null)
    {
        NativeLibraries.EnsureLoaded();
        var model = new LanguageModel(config, new Placement(device ?? CPU));
        foreach (ModelPart part in model.Parts)
        {
            part.Initialize(config.InitializerRange, seed);
        }

        return model;
    }

    /// <summary>Gives every feed-forward part another activation function; the weights stay as they are.</summary>
    /// <param name="name">Its name in config.json ("relu").</param>
    /// <param name="threshold">The threshold of <c>fatrelu</c>; 0 elsewhere.</param>
    /// <exception cref="EspalierException">For a name that is not known, or a threshold that does not belong to it.</exception>
    public void SetActivation(string name, double threshold = 0)
    {
        Config = Config.WithActivation(name, threshold);
        foreach (DecoderBlock block in Blocks)
        {
            block.Activate(Config);
        }
    }

    /// <summary>The logits of every next token.</summary>
    /// <param name="ids">Token ids [batch, tokens], int64, on the model's device.</param>
    /// <param name="cache">What earlier calls saw; extended by these tokens. Null: these tokens are the whole context.</param>
    /// <returns>[batch, tokens, vocabulary].</returns>
    /// <exception cref="EspalierException">When an id lies outside the vocabulary, or the context is longer than the model's.</exception>
    public Tensor Logits(Tensor ids, KeyValueCache? cache = null)
    {
        using var scope = NewDisposeScope();
        Tensor hidden_BTH = HiddenStates(ids, cache);
        return Head.Forward(hidden_BTH).MoveToOuterDisposeScope();
    }

    /// <summary>What the last block puts out, before the final norm.</summary>
    /// <param name="ids">Token ids [batch, tokens], int64.</param>
    /// <param name="cache">As for <see cref="Logits"/>.</param>
    /// <returns>[batch, tokens, hidden].</returns>
    public Tensor HiddenStates(Tensor ids, KeyValueCache? cache = null)
    {
        long position = cache?.Length ?? 0;
        Tensor hidden_BTH = Embedding.Forward(ids, position);
        foreach (DecoderBlock block in Blocks)
        {
            // Each block's input goes at once: without gradients, one block's activations are all that is held.
            using Tensor input = hidden_BTH;
            hidden_BTH = block.Forward(input, position, cache);
        }

        return hidden_BTH;
    }

    /// <summary>
    /// The logits of the token that comes next in one sequence, without gradients. A single token behind others takes a shorter way than
    /// <see cref="Logits"/>, on plain memory, where the model is in float32 on the CPU.
    /// </summary>
    /// <param name="ids">The tokens that the cache has not seen; at least one.</param>
    /// <param name="cache">What earlier calls saw; extended by these tokens. Null: these tokens are the whole context.</param>
    /// <returns>[vocabulary].</returns>
    /// <exception cref="EspalierException">When an id lies outside the vocabulary, or the context is longer than the model's.</exception>
    public Tensor NextLogits(ReadOnlySpan<long> ids, KeyValueCache? cache = null)
    {
        using var _ = no_grad();
        using var scope = NewDisposeScope();
        Tensor ids_1T = tensor(ids.ToArray(), device: Device).unsqueeze(0);
        Tensor hidden_1TH = ids.Length == 1 && cache is not null && stepRoom is not null ? Step(ids_1T, cache) : HiddenStates(ids_1T, cache);
        return Head.Forward(hidden_1TH.narrow(1, ids.Length - 1, 1)).flatten().MoveToOuterDisposeScope(); // only the last token needs logits
    }

    private Tensor Step(Tensor ids_11, KeyValueCache cache)
    {
        long position = cache.Length;
        Tensor hidden_11H = Embedding.Forward(ids_11, position).contiguous();
        Span<float> numbers = StepMath.Numbers(hidden_11H);
        numbers.CopyTo(stepRoom!.Take(StepVector.Hidden, numbers.Length));
        foreach (DecoderBlock block in Blocks)
        {
            block.Step(stepRoom, position, cache);
        }

        stepRoom.Hidden.CopyTo(numbers);
        return hidden_11H;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Head.Dispose();
        foreach (DecoderBlock block in Blocks)
        {
            block.Dispose();
        }

        Embedding.Dispose();
    }
}
