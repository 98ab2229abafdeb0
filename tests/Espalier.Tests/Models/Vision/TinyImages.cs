using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Tests.Models.Vision;

/// <summary>Images that a tiny net learns in a few steps.</summary>
internal static class TinyImages
{
    /// <summary>Noise of 8×8 with one bright quarter of three.</summary>
    public static ImageTensors Corners(int count, int channels = 3)
    {
        using var scope = NewDisposeScope();
        using Generator generator = new Seed(7).Generator("corners");
        Tensor images = (rand([count, channels, 8, 8], generator: generator) * 100).to(ScalarType.Byte);
        long[] labels = [.. Enumerable.Range(0, count).Select(i => (long)(i % 3))];
        for (int i = 0; i < count; i++)
        {
            images[i].narrow(1, labels[i] == 1 ? 4 : 0, 4).narrow(2, labels[i] == 2 ? 4 : 0, 4).fill_(200);
        }

        return new ImageTensors("corners", images, tensor(labels));
    }

    /// <summary>Drops the gradients that a training left.</summary>
    public static void ClearGradients(this VisionModel model)
    {
        using var scope = NewDisposeScope();
        foreach ((_, Parameter value) in model.Parameters)
        {
            value.grad = null;
        }
    }
}
