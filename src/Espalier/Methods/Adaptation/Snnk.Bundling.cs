using Espalier.Data;
using Espalier.Methods.Retraining;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>What the matrix of a bundle is fitted to.</summary>
public enum BundleTargets
{
    /// <summary>The classes, as 0 and 1.</summary>
    Classes,

    /// <summary>The logits of the net that is bundled: a distillation.</summary>
    Logits,
}

public sealed partial record Snnk
{
    private const int FitBatch = 500;

    /// <summary>Bundling: how many maps at the end of the net become one. Default 2: a hidden layer and the classifier.</summary>
    public int Layers { get; init => field = OptionCheck.Checked(value, value >= 2, Slug, "number of bundled layers", "at least 2"); } = 2;

    /// <summary>Bundling: λ of the closed form. Default 1e-4.</summary>
    public double Ridge { get; init => field = OptionCheck.Checked(value, value >= 0 && double.IsFinite(value), Slug, "ridge", "0 or a positive number"); } = 1e-4;

    /// <summary>Bundling: what the closed form fits. Default the classes.</summary>
    public BundleTargets Fit { get; init; }

    /// <summary>Bundling: whether the one matrix is then trained for the training's steps (the rest stays as it is). Default true.</summary>
    public bool Tune { get; init; } = true;

    /// <summary>Bundling: images that the closed form sees, from the first. Default 20,000.</summary>
    public int FitImages { get; init => field = OptionCheck.Checked(value, value >= 1, Slug, "number of images to fit", "at least 1"); } = 20_000;

    /// <inheritdoc/>
    public void Check(VisionModel model, TrainingOptions options)
    {
        EspalierException.Require(Kind is KernelFeatures.Relu, "Only relu features bundle into a net of maps and ReLUs; set kind to relu.");
        Chain(model);
        options.Validate();
    }

    /// <inheritdoc/>
    public VisionMethodResult Run(VisionMethodContext context, CancellationToken cancellation = default)
    {
        Check(context.Model, context.Options);
        VisionModel net = Bundle(context.Model, context.Seed);
        try
        {
            IReadOnlyList<LinearLayer> old = Chain(context.Model), bundled = Chain(net);
            double error = FitLast(context, net, cancellation);
            if (Tune)
            {
                TrainLast(context, net, bundled[^1], cancellation);
            }

            long before = old.Sum(Size), after = Size(bundled[^1]);
            return new VisionMethodResult(net, new Dictionary<string, SparsityMask>(),
                [("mean squared error of the fit", error), ("trained parameters of the bundled layers before", before), ("trained parameters after", after)]);
        }
        catch
        {
            net.Dispose();
            throw;
        }
    }

    /// <summary>The net with its last maps bundled: the hidden ones become fixed feature maps G/√m without a bias, the last one is still zero.</summary>
    /// <param name="model">The trained net; it stays as it is.</param>
    /// <param name="seed">Draws the projections.</param>
    /// <exception cref="EspalierException">When the net does not end in so many maps with ReLUs between.</exception>
    public VisionModel Bundle(VisionModel model, Seed seed)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        IReadOnlyList<LinearLayer> chain = Chain(model);
        var widths = new Dictionary<string, int>(model.Config.Widths);
        foreach (LinearLayer hidden in chain.SkipLast(1))
        {
            widths[hidden.Name] = Features;
        }

        VisionModel net = VisionModel.Random(model.Config.WithCut(widths, model.Config.Maps), seed, model.Device);
        var own = chain.SelectMany(l => new[] { l.WeightName, $"{l.Name}.bias" }).ToHashSet(StringComparer.Ordinal);
        foreach (((string name, Tensor to), Tensor from) in net.Parameters.Select(p => (p.Name, (Tensor)p.Value)).Zip(model.Parameters.Select(p => (Tensor)p.Value)).Where(p => !own.Contains(p.First.Name)))
        {
            to.copy_(from);
        }

        foreach ((Tensor to, Tensor from) in net.Buffers.Select(b => b.Value).Zip(model.Buffers.Select(b => b.Value)))
        {
            to.copy_(from);
        }

        foreach (LinearLayer layer in Chain(net))
        {
            layer.Bias?.zero_();
            Tensor g = layer == Chain(net)[^1] ? zeros(layer.Weight.shape) : RandomFeatures.Projection(layer.Rows, layer.Columns, Orthogonal, seed, layer.Name) / Math.Sqrt(layer.Rows);
            layer.Weight.copy_(g);
        }

        return net;
    }

    /// <summary>Sets the last matrix of a bundled net to its closed form on the training images, with a bias.</summary>
    /// <param name="context">The net that was bundled, and images.</param>
    /// <param name="net">The bundled net.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>The mean squared error on these images.</returns>
    public double FitLast(VisionMethodContext context, VisionModel net, CancellationToken cancellation = default)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        LinearLayer last = Chain(net)[^1];
        List<Tensor> features = [], targets = [];
        last.InputObserver = input => features.Add(input.detach().to(ScalarType.Float64).clone().MoveToOuterDisposeScope());
        int count = Math.Min(FitImages, context.Images.Count);
        var batches = new ImageBatches(context.Images, FitBatch) { Mean = net.Config.Mean, Deviation = net.Config.Deviation };
        try
        {
            foreach ((Tensor images, Tensor labels) in batches.InOrder(count, net.Device))
            {
                cancellation.ThrowIfCancellationRequested();
                net.Forward(images);
                Tensor wanted = Fit is BundleTargets.Logits ? context.Model.Forward(images) : nn.functional.one_hot(labels.to(ScalarType.Int64), net.Config.Classes);
                targets.Add(wanted.to(ScalarType.Float64));
                images.Dispose();
                labels.Dispose();
            }
        }
        finally
        {
            last.InputObserver = null;
        }

        // A feature that is always 1 carries the bias.
        Tensor phi = cat([cat(features), ones([count, 1], ScalarType.Float64)], 1), y = cat(targets);
        Tensor theta = RandomFeatures.Fit(phi, y, Ridge);
        last.Weight.copy_(theta.narrow(0, 0, last.Columns).t());
        last.Bias?.copy_(theta[last.Columns]);
        return (phi.mm(theta) - y).square().mean().item<double>();
    }

    private static void TrainLast(VisionMethodContext context, VisionModel net, LinearLayer last, CancellationToken cancellation)
    {
        foreach ((string name, TorchSharp.Modules.Parameter value) in net.Parameters)
        {
            value.requires_grad = name == last.WeightName || name == $"{last.Name}.bias";
        }

        context.Train(net, context.Seed, cancellation: cancellation);
        foreach ((_, TorchSharp.Modules.Parameter value) in net.Parameters)
        {
            value.requires_grad = true;
        }
    }

    private static long Size(LinearLayer layer) => layer.Weight.numel() + (layer.Bias?.numel() ?? 0);

    /// <summary>The maps that are bundled, the last one last.</summary>
    private IReadOnlyList<LinearLayer> Chain(VisionModel model)
    {
        LinearLayer[] maps = [.. model.Weights.TakeLast(Layers).OfType<LinearLayer>()];
        bool chained = maps.Length == Layers && maps.Zip(maps.Skip(1)).All(p => p.First.Rows == p.Second.Columns && p.Second.Inputs[0] is { Inputs: [var before] } && ReferenceEquals(before, p.First));
        EspalierException.Require(chained, $"snnk bundles {Layers} linear maps with ReLUs between at the end of a net, and {model.Config.ModelType} does not end so; use an mlp, lenet or vgg with so many, or fewer layers.");
        return maps;
    }
}
