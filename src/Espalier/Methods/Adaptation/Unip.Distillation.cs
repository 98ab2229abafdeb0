using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

public sealed partial record Unip
{
    private const string Positions = "pos_embed";
    private const double ClassDeviation = 0.02;

    /// <summary>Step 5: teaches the maps of a teacher's layer to the student's last block, in place. The teacher runs only so far, and never drops or learns anything.</summary>
    /// <param name="teacher">The teacher.</param>
    /// <param name="student">The student.</param>
    /// <param name="layer">The teacher's layer, counted from 1.</param>
    /// <param name="context">Images, whose classes are not looked at, and how to train.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public TrainingResult Distil(VisionModel teacher, VisionModel student, int layer, VisionMethodContext context, CancellationToken cancellation = default)
    {
        AttentionLayer last = Attentions(student)[^1];
        // What the taught maps do not depend on gets no gradient and is left out.
        HashSet<string> reached = [.. student.Layers.TakeWhile(l => l != last).SelectMany(l => l.Parameters).Select(p => p.Name)];
        var still = student.Parameters.Where(p => !reached.Contains(p.Name) || p.Name == Positions).ToArray();
        using var dropping = new DroppedPaths(student, DropPath, context.Seed);
        try
        {
            foreach ((_, TorchSharp.Modules.Parameter value) in still)
            {
                value.requires_grad = false;
            }

            return (context.Training(context.Seed) with
            {
                Objective = (net, batches) => new TrainingObjective((step, micro) =>
                {
                    using var scope = NewDisposeScope();
                    Tensor images = batches.Shuffled((step * context.Options.Accumulation) + micro, net.Device).Images, maps;
                    using (no_grad())
                    {
                        maps = AttentionScores(teacher, images, layer);
                    }

                    Tensor scores = AttentionScores(net.Forward(images, last.Inputs[0]), last.Heads);
                    return AttentionPatterns.DistillationLoss(scores, maps).MoveToOuterDisposeScope();
                }),
            }).Run(student, context.Images, cancellation: cancellation);
        }
        finally
        {
            foreach ((_, TorchSharp.Modules.Parameter value) in still)
            {
                value.requires_grad = true;
            }
        }
    }

    /// <summary>The usual way, as a baseline: the student's last block learns the teacher's through a linear map that is thrown away afterwards (mean squared error).</summary>
    /// <inheritdoc cref="Distil"/>
    public static TrainingResult DistilFeatures(VisionModel teacher, VisionModel student, VisionMethodContext context, CancellationToken cancellation = default)
    {
        VisionLayer from = VitSegmenter.LastTokens(teacher), to = VitSegmenter.LastTokens(student);
        using Generator generator = context.Seed.Generator("projector");
        using Tensor start = randn([from.Shape.Channels, to.Shape.Channels], generator: generator).div_(Math.Sqrt(to.Shape.Channels));
        using TorchSharp.Modules.Parameter projector = Models.Parameters.Of(start.clone());
        return (context.Training(context.Seed) with
        {
            Extra = [("projector", projector)],
            Objective = (net, batches) => new TrainingObjective((step, micro) =>
            {
                using var scope = NewDisposeScope();
                Tensor images = batches.Shuffled((step * context.Options.Accumulation) + micro, net.Device).Images, wanted;
                using (no_grad())
                {
                    wanted = teacher.Forward(images, from);
                }

                return nn.functional.mse_loss(nn.functional.linear(net.Forward(images, to), projector), wanted).MoveToOuterDisposeScope();
            }),
        }).Run(student, context.Images, cancellation: cancellation);
    }

    /// <summary>Step 6: the same images without colours, in as many channels.</summary>
    public static ImageTensors ToGrey(ImageTensors images)
    {
        using var scope = NewDisposeScope();
        Tensor shares = tensor([0.299f, 0.587f, 0.114f]).view(1, 3, 1, 1);
        Tensor[] parts = [.. images.Images.split(1024).Select(p => (p.to(ScalarType.Float32) * shares).sum([1L], keepdim: true).round().clamp(0, 255).to(ScalarType.Byte).expand(-1, 3, -1, -1))];
        return new ImageTensors($"{images.Name}, grey", cat(parts).contiguous(), images.Labels.clone());
    }

    // Xavier's uniform start for linear maps with zero biases, and the positions.
    private static void Begin(VisionModel student, Seed seed)
    {
        using var frozen = no_grad();
        foreach (WeightLayer layer in student.Weights)
        {
            using var scope = NewDisposeScope();
            using Generator generator = seed.Generator($"student {layer.Name}");
            double bound = Math.Sqrt(6.0 / (layer.Rows + layer.Columns));
            layer.Weight.copy_((rand(layer.Weight.shape, generator: generator) * 2 * bound) - bound);
            layer.Bias?.zero_();
        }

        using var last = NewDisposeScope();
        Tensor positions = student.Parameters.First(p => p.Name == Positions).Value;
        using Generator token = seed.Generator("student class token");
        Tensor cls = student.Parameters.First(p => p.Name == "cls_token").Value;
        cls.copy_(normal(0, ClassDeviation, cls.shape, ScalarType.Float32, generator: token));
        positions.copy_(SineCosine((long)Math.Sqrt(positions.shape[1] - 1), positions.shape[2]));
    }

    /// <summary>Fixed positions [1, 1 + side², width]: half of the width for columns, half for rows, sines then cosines of 10,000^(−i); the class token's are 0.</summary>
    internal static Tensor SineCosine(long side, long width)
    {
        EspalierException.Require(width % 4 == 0, $"Positions of sines and cosines in two directions need a width that 4 divides, not {width}.");
        using var scope = NewDisposeScope();
        Tensor rates = pow(10_000, -(arange(width / 4, ScalarType.Float64) / (width / 4.0))), place = arange(side, ScalarType.Float64);
        Tensor angle = outer(place, rates), waves = cat([angle.sin(), angle.cos()], 1);
        Tensor columns = waves.unsqueeze(0).expand(side, side, width / 2), rows = waves.unsqueeze(1).expand(side, side, width / 2);
        Tensor all = cat([columns, rows], 2).reshape(1, side * side, width).to(ScalarType.Float32);
        return cat([zeros(1, 1, width), all], 1).MoveToOuterDisposeScope();
    }

    /// <summary>Leaves the branches of blocks out by chance, image by image, while the net is in training mode.</summary>
    private sealed class DroppedPaths : IDisposable
    {
        private readonly List<VisionLayer> _branches = [];
        private readonly Generator _generator;

        public DroppedPaths(VisionModel net, double chance, Seed seed)
        {
            _generator = seed.Generator("dropped branches");
            if (chance == 0)
            {
                return;
            }

            foreach (VisionLayer branch in net.Layers.Where(l => l.Name.EndsWith(".attn.proj", StringComparison.Ordinal) || l.Name.EndsWith(".mlp.fc2", StringComparison.Ordinal)))
            {
                branch.OutputChange = x => net.Training ? Drop(x, chance) : x;
                _branches.Add(branch);
            }
        }

        public void Dispose()
        {
            _branches.ForEach(b => b.OutputChange = null);
            _generator.Dispose();
        }

        private Tensor Drop(Tensor x, double chance)
        {
            using var scope = NewDisposeScope();
            Tensor kept = rand([x.shape[0], 1, 1], generator: _generator).ge(chance).to(x.device).to(x.dtype) / (1 - chance);
            return (x * kept).MoveToOuterDisposeScope();
        }
    }
}
