using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.VisionLoop;

/// <summary>ResNet for CIFAR as one writes it with TorchSharp's own modules: what the graph and the loop are raced against.</summary>
internal sealed class BareResNet : nn.Module<Tensor, Tensor>
{
    private readonly Conv2d conv1 = nn.Conv2d(3, 16, 3, padding: 1, bias: false);
    private readonly BatchNorm2d bn1 = nn.BatchNorm2d(16);
    private readonly Sequential blocks;
    private readonly TorchSharp.Modules.Linear linear = nn.Linear(64, 10);

    public BareResNet(int depth)
        : base("resnet")
    {
        var list = new List<nn.Module<Tensor, Tensor>>();
        int width = 16;
        foreach (int next in new[] { 16, 32, 64 })
        {
            for (int i = 0; i < (depth - 2) / 6; i++)
            {
                list.Add(new Block(width, next));
                width = next;
            }
        }

        blocks = nn.Sequential([.. list]);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor y = nn.functional.relu(bn1.forward(conv1.forward(x)));
        return linear.forward(blocks.forward(y).mean([2, 3])).MoveToOuterDisposeScope();
    }

    private sealed class Block : nn.Module<Tensor, Tensor>
    {
        private readonly Conv2d conv1, conv2;
        private readonly BatchNorm2d bn1, bn2;
        private readonly int added;

        public Block(int from, int to)
            : base("block")
        {
            added = to - from;
            conv1 = nn.Conv2d(from, to, 3, stride: added > 0 ? 2 : 1, padding: 1, bias: false);
            conv2 = nn.Conv2d(to, to, 3, padding: 1, bias: false);
            (bn1, bn2) = (nn.BatchNorm2d(to), nn.BatchNorm2d(to));
            RegisterComponents();
        }

        public override Tensor forward(Tensor x)
        {
            using var scope = NewDisposeScope();
            Tensor y = bn2.forward(conv2.forward(nn.functional.relu(bn1.forward(conv1.forward(x)))));
            Tensor shortcut = added == 0 ? x : nn.functional.pad(x[.., .., TensorIndex.Slice(null, null, 2), TensorIndex.Slice(null, null, 2)], [0, 0, 0, 0, added / 2, added / 2]);
            return nn.functional.relu(y + shortcut).MoveToOuterDisposeScope();
        }
    }
}
