using System.Globalization;
using System.Text.Json.Nodes;
using Espalier.Catalogue;
using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>How one layer of a ViT attends.</summary>
/// <param name="Layer">Counted from 1.</param>
/// <param name="Nmi">The mean of its maps' normalised mutual information: near 0 global, high local, between hybrid.</param>
/// <param name="Heads">The mean of each head.</param>
public sealed record LayerPattern(int Layer, double Nmi, IReadOnlyList<double> Heads);

/// <summary>
/// UNIP: makes a small ViT of a large one for images of another kind (infrared, depth, grey). It measures which layer attends in a hybrid way, near and to what
/// stands in front, and teaches only that layer's attention maps to the last layer of the small net.
/// </summary>
/// <remarks>S and T are maps before the softmax, of student and teacher; q are queries, k keys.</remarks>
[Method("unip", "UNIP: Rethinking Pre-trained Attention Patterns for Infrared Semantic Segmentation", Family = "Adaptation", Source = "Zhang, Wen, Chen, Ding, Xiang, Pan, ICLR 2025, arXiv 2502.02257",
    Summary = "Distils the attention maps of a large ViT's hybrid layer into the last layer of a small one, without labels; shows what every layer's attention looks like.",
    Fits = "train --method (the teacher is the net, the result its student); espalier attention; C#: last-layer pyramid and segmentation")]
public sealed partial record Unip : IVisionMethod
{
    /// <summary>The teacher's layer, counted from 1; 0 (default) takes the one whose NMI is nearest to <see cref="Target"/>. The authors took 18 of 24 (MAE-L), 9 of 12 (DINO-B), 21 of 24 (iBOT-L).</summary>
    /// <exception cref="EspalierException">Negative.</exception>
    public int Layer
    {
        get;
        init => field = Checked(value, value >= 0, "layer", "1 or more, or 0 to choose by the NMI");
    }

    /// <summary>The NMI of a hybrid pattern. Default 0.09 (of large teachers with 196 tokens, as remembered; not verified).</summary>
    /// <exception cref="EspalierException">Outside [0, 1].</exception>
    public double Target
    {
        get;
        init => field = Checked(value, value is >= 0 and <= 1, "target", "from 0 to 1");
    } = 0.09;

    /// <summary>The student's width. Default 384 (ViT-S).</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Width
    {
        get;
        init => field = Checked(value, value >= 1, "width", "at least 1");
    } = 384;

    /// <summary>The student's blocks. Default 12.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Depth
    {
        get;
        init => field = Checked(value, value >= 1, "depth", "at least 1");
    } = 12;

    /// <summary>The student's heads in all blocks but the last, which has the teacher's. Default 6.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Heads
    {
        get;
        init => field = Checked(value, value >= 1, "number of heads", "at least 1");
    } = 6;

    /// <summary>The chance that a block's branch is left out for an image in training. Default 0.1.</summary>
    /// <exception cref="EspalierException">Outside [0, 1).</exception>
    public double DropPath
    {
        get;
        init => field = Checked(value, value is >= 0 and < 1, "chance of dropped branches", "from 0 to below 1");
    } = 0.1;

    /// <summary>Turns colour images grey before they are shown to both nets, against a bias to texture. Default true.</summary>
    public bool Grey { get; init; } = true;

    /// <summary>Images on which the NMI is measured. Default 256.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Samples
    {
        get;
        init => field = Checked(value, value >= 1, "number of images", "at least 1");
    } = 256;

    /// <summary>S = q·kᵀ/√(head size), before the softmax, from a block's fused queries, keys and values.</summary>
    /// <param name="qkv">[B, N, 3·d]: all queries, all keys, all values; head h owns columns h·d/H on.</param>
    /// <param name="heads">H.</param>
    /// <returns>[B, H, N, N], within the graph.</returns>
    public static Tensor AttentionScores(Tensor qkv, long heads)
    {
        using var scope = NewDisposeScope();
        long images = qkv.shape[0], tokens = qkv.shape[1], size = qkv.shape[2] / 3 / heads;
        Tensor[] parts = [.. qkv.view(images, tokens, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)];
        return (parts[0].matmul(parts[1].transpose(-2, -1)) / Math.Sqrt(size)).MoveToOuterDisposeScope();
    }

    /// <summary>The maps of one block, running the net no further than needed.</summary>
    /// <param name="net">A ViT.</param>
    /// <param name="images">Normalised images.</param>
    /// <param name="layer">The block, counted from 1.</param>
    public static Tensor AttentionScores(VisionModel net, Tensor images, int layer)
    {
        using var scope = NewDisposeScope();
        AttentionLayer attention = Attentions(net)[layer - 1];
        return AttentionScores(net.Forward(images, attention.Inputs[0]), attention.Heads).MoveToOuterDisposeScope();
    }

    /// <summary>Steps 1 and 2: the NMI of every layer of a ViT.</summary>
    /// <param name="net">The net.</param>
    /// <param name="images">Images, the first <see cref="Samples"/> of which are used.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <exception cref="EspalierException">When the net is no ViT.</exception>
    public IReadOnlyList<LayerPattern> Patterns(VisionModel net, ImageTensors images, CancellationToken cancellation = default)
    {
        AttentionLayer[] attentions = Attentions(net);
        double[][] sums = [.. attentions.Select(a => new double[a.Heads])];
        long seen = 0;
        using var frozen = no_grad();
        try
        {
            for (int l = 0; l < attentions.Length; l++)
            {
                double[] sum = sums[l];
                long heads = attentions[l].Heads;
                attentions[l].Inputs[0].OutputObserver = qkv =>
                {
                    using var scope = NewDisposeScope();
                    double[] found = [.. AttentionPatterns.Of(AttentionScores(qkv, heads), hasClassToken: true).Nmi.sum([0L]).cpu().data<double>()];
                    for (int h = 0; h < sum.Length; h++)
                    {
                        sum[h] += found[h];
                    }
                };
            }

            foreach ((Tensor batch, Tensor labels) in new ImageBatches(images, 64) { Mean = net.Config.Mean, Deviation = net.Config.Deviation }.InOrder(Samples, net.Device))
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = NewDisposeScope();
                using (batch)
                using (labels)
                {
                    seen += batch.shape[0];
                    net.Forward(batch, attentions[^1].Inputs[0]);
                }
            }
        }
        finally
        {
            foreach (AttentionLayer attention in attentions)
            {
                attention.Inputs[0].OutputObserver = null;
            }
        }

        return [.. sums.Select((s, l) => new LayerPattern(l + 1, s.Average() / seen, [.. s.Select(x => x / seen)]))];
    }

    /// <summary>Step 3: the layer that is taught.</summary>
    public int Choose(IReadOnlyList<LayerPattern> patterns) => Layer > 0 ? Layer : AttentionPatterns.Choose([.. patterns.Select(p => p.Nmi)], Target);

    /// <inheritdoc/>
    public void Check(VisionModel model, TrainingOptions options)
    {
        AttentionLayer[] attentions = Attentions(model);
        EspalierException.Require(Layer <= attentions.Length, $"The teacher has {attentions.Length} blocks, and its layer {Layer} is asked for.");
        foreach (AttentionLayer attention in Layer > 0 ? [attentions[Layer - 1]] : attentions)
        {
            EspalierException.Require(Width % attention.Heads == 0,
                $"A student of width {Width} cannot have the {attention.Heads} heads that the teacher's maps have in its last block; take a multiple of {attention.Heads}.");
        }

        EspalierException.Require(Width % Heads == 0, $"A student of width {Width} cannot be shared out among {Heads} heads.");
    }

    /// <summary>Makes a student with fixed sine and cosine positions and Xavier's start, and teaches it the maps of one layer of the net on unlabelled images.</summary>
    /// <inheritdoc/>
    public VisionMethodResult Run(VisionMethodContext context, CancellationToken cancellation = default)
    {
        Check(context.Model, context.Options);
        using ImageTensors? grey = Grey && context.Images.Images.shape[1] == 3 ? ToGrey(context.Images) : null;
        ImageTensors images = grey ?? context.Images;
        IReadOnlyList<LayerPattern> patterns = Patterns(context.Model, images, cancellation);
        int layer = Choose(patterns);
        foreach (LayerPattern pattern in patterns)
        {
            context.Progress.Say(string.Create(CultureInfo.InvariantCulture, $"layer {pattern.Layer}: NMI {pattern.Nmi:0.0000}{(pattern.Layer == layer ? ", taught" : "")}"));
        }

        VisionModel student = Student(context.Model, layer, context.Seed);
        try
        {
            TrainingResult result = Distil(context.Model, student, layer, context with { Images = images }, cancellation);
            return new VisionMethodResult(student, new Dictionary<string, SparsityMask>(),
                [.. patterns.Select(p => ($"NMI of layer {p.Layer}", p.Nmi)), ("layer taught", layer), ("loss at the first step", result.Losses[0]), ("loss at the last step", result.FinalLoss)]);
        }
        catch
        {
            student.Dispose();
            throw;
        }
    }

    /// <summary>Step 4: a student with random weights for a teacher's layer.</summary>
    /// <param name="teacher">The teacher: patches, image size, channels and classes are its own.</param>
    /// <param name="layer">Its layer, counted from 1.</param>
    /// <param name="seed">Of the weights.</param>
    public VisionModel Student(VisionModel teacher, int layer, Seed seed)
    {
        AttentionLayer attention = Attentions(teacher)[layer - 1];
        var json = (JsonObject)JsonNode.Parse(teacher.Config.ToJsonText())!;
        foreach (string cut in (string[])["widths", "channel_maps", "mlp_dim"])
        {
            json.Remove(cut);
        }

        (json["embed_dim"], json["depth"], json["num_heads"], json["last_num_heads"]) = (Width, Depth, Heads, attention.Heads);
        VisionModel student = VisionModel.Random(VisionConfig.Parse(json.ToJsonString(), "the student's configuration"), seed, teacher.Device);
        Begin(student, seed);
        return student;
    }

    private static T Checked<T>(T value, bool holds, string what, string wanted) => Retraining.OptionCheck.Checked(value, holds, "unip", what, wanted);

    internal static AttentionLayer[] Attentions(VisionModel net)
    {
        AttentionLayer[] found = [.. net.Layers.OfType<AttentionLayer>()];
        EspalierException.Require(found.Length > 0, $"unip works on attention maps, and this net ({net.Config.ModelType}) has none; give a ViT.");
        return found;
    }
}
