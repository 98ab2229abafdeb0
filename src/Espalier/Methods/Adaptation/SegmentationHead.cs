using Espalier.Models;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>UPerNet on a last-layer pyramid (step 8): pooled context on the coarsest map, sums from coarse to fine, and all maps together at the finest; with an auxiliary head on the patches' own map.</summary>
public sealed class SegmentationHead : IDisposable
{
    private static readonly long[] Pools = [1, 2, 3, 6];

    private readonly List<ConvNormRelu> _all = [];
    private readonly ConvNormRelu[] _pooled, _lateral, _smooth;
    private readonly ConvNormRelu _context, _fuse, _auxiliary;
    private readonly Parameter _classes, _classesBias, _auxiliaryClasses, _auxiliaryBias;

    /// <summary>Makes a head with random weights.</summary>
    /// <param name="channels">C of the pyramid, also of the head.</param>
    /// <param name="classes">Pixel classes.</param>
    /// <param name="seed">Of the weights.</param>
    public SegmentationHead(long channels, int classes, Seed seed)
    {
        using Generator generator = seed.Generator("segmentation head");
        using var scope = NewDisposeScope();
        _pooled = [.. Pools.Select(p => Make($"pool{p}", channels, 1))];
        _context = Make("context", channels * (Pools.Length + 1), 3);
        _lateral = [.. Enumerable.Range(0, 3).Select(i => Make(FormattableString.Invariant($"lateral{i}"), channels, 1))];
        _smooth = [.. Enumerable.Range(0, 3).Select(i => Make(FormattableString.Invariant($"smooth{i}"), channels, 3))];
        _fuse = Make("fuse", 4 * channels, 3);
        _auxiliary = Make("auxiliary", channels, 3);
        (_classes, _classesBias) = (Parameters.Of(randn([classes, channels, 1, 1], generator: generator) * 0.01), Parameters.Of(zeros(classes)));
        (_auxiliaryClasses, _auxiliaryBias) = (Parameters.Of(randn([classes, channels, 1, 1], generator: generator) * 0.01), Parameters.Of(zeros(classes)));

        ConvNormRelu Make(string name, long inputs, int kernel)
        {
            var made = new ConvNormRelu(name, inputs, channels, kernel, generator);
            _all.Add(made);
            return made;
        }
    }

    /// <summary>Everything that is trained, by name.</summary>
    public IReadOnlyList<(string Name, Parameter Value)> Trainable =>
    [
        .. _all.SelectMany(c => c.Trainable), ("classes.weight", _classes), ("classes.bias", _classesBias), ("auxiliary_classes.weight", _auxiliaryClasses), ("auxiliary_classes.bias", _auxiliaryBias),
    ];

    /// <summary>Running statistics of the norms.</summary>
    public IReadOnlyList<(string Name, Tensor Value)> Buffers => [.. _all.SelectMany(c => c.Buffers)];

    /// <summary>Class scores of every place of the finest map [B, classes, 4h, 4w].</summary>
    public Tensor Forward(PyramidMaps maps, bool training)
    {
        using var scope = NewDisposeScope();
        long[] coarse = maps.P32.shape[2..];
        Tensor context = _context.Forward(
            cat([maps.P32, .. Pools.Select((p, i) => Resize(_pooled[i].Forward(nn.functional.adaptive_avg_pool2d(maps.P32, [p, p]), training), coarse))], 1), training);
        Tensor[] sides = [_lateral[0].Forward(maps.P4, training), _lateral[1].Forward(maps.P8, training), _lateral[2].Forward(maps.P16, training), context];
        for (int i = 2; i >= 0; i--)
        {
            sides[i] = sides[i] + Resize(sides[i + 1], sides[i].shape[2..]);
        }

        long[] fine = sides[0].shape[2..];
        Tensor fused = _fuse.Forward(cat([.. sides.Select((s, i) => Resize(i < 3 ? _smooth[i].Forward(s, training) : s, fine))], 1), training);
        return nn.functional.conv2d(fused, _classes, _classesBias).MoveToOuterDisposeScope();
    }

    /// <summary>The auxiliary head's scores [B, classes, h, w]; used in training alone.</summary>
    public Tensor Auxiliary(PyramidMaps maps, bool training)
    {
        using var scope = NewDisposeScope();
        return nn.functional.conv2d(_auxiliary.Forward(maps.P16, training), _auxiliaryClasses, _auxiliaryBias).MoveToOuterDisposeScope();
    }

    /// <summary>A map at another size, between its four neighbours.</summary>
    internal static Tensor Resize(Tensor map, long[] size) => map.shape[2] == size[0] && map.shape[3] == size[1]
        ? map.alias()
        : nn.functional.interpolate(map, size, mode: InterpolationMode.Bilinear, align_corners: false);

    /// <inheritdoc/>
    public void Dispose()
    {
        _all.ForEach(c => c.Dispose());
        _classes.Dispose();
        _classesBias.Dispose();
        _auxiliaryClasses.Dispose();
        _auxiliaryBias.Dispose();
    }

    private sealed class ConvNormRelu : IDisposable
    {
        private readonly string _name;
        private readonly Parameter _weight, _scale, _shift;
        private readonly Tensor _mean, _variance;

        public ConvNormRelu(string name, long inputs, long outputs, int kernel, Generator generator)
        {
            _name = name;
            _weight = Parameters.Of(randn([outputs, inputs, kernel, kernel], generator: generator) * Math.Sqrt(2.0 / (inputs * kernel * kernel)));
            (_scale, _shift) = (Parameters.Of(ones(outputs)), Parameters.Of(zeros(outputs)));
            (_mean, _variance) = (zeros(outputs).DetachFromDisposeScope(), ones(outputs).DetachFromDisposeScope());
        }

        public IEnumerable<(string, Parameter)> Trainable => [($"{_name}.weight", _weight), ($"{_name}.bn.weight", _scale), ($"{_name}.bn.bias", _shift)];

        public IEnumerable<(string, Tensor)> Buffers => [($"{_name}.bn.running_mean", _mean), ($"{_name}.bn.running_var", _variance)];

        public Tensor Forward(Tensor x, bool training)
        {
            using var scope = NewDisposeScope();
            long padding = _weight.shape[^1] / 2;
            return nn.functional.batch_norm(nn.functional.conv2d(x, _weight, padding: [padding, padding]), _mean, _variance, _scale, _shift, training).relu().MoveToOuterDisposeScope();
        }

        public void Dispose()
        {
            foreach (Tensor own in (Tensor[])[_weight, _scale, _shift, _mean, _variance])
            {
                own.Dispose();
            }
        }
    }
}
