using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Data;

/// <summary>How a scene is rendered.</summary>
public enum SceneRendering
{
    /// <summary>Items in a colour of their own on the background.</summary>
    Colour,

    /// <summary>As a thermal camera might see it: grey, inverted, blurred, of low contrast, with a little noise; the same in all three channels.</summary>
    Infrared,
}

/// <summary>Scenes made of single items on backgrounds, whose masks are known: data for segmentation where there is none.</summary>
public sealed class SegmentationScenes : IDisposable
{
    private const int ItemFrom = 20, Channels = 3;

    private SegmentationScenes(ImageTensors images, Tensor masks, int classes) => (Images, Masks, Classes) = (images, masks.DetachFromDisposeScope(), classes);

    /// <summary>The scenes [count, 3, side, side] with the item's class (without background, from 0).</summary>
    public ImageTensors Images { get; }

    /// <summary>The class of each pixel [count, side, side], int64: 0 is background, an item of class c is c + 1.</summary>
    public Tensor Masks { get; }

    /// <summary>Pixel classes, background included.</summary>
    public int Classes { get; }

    /// <summary>The scenes with their own numbers in place of classes: batches of them find their masks by number. The caller disposes it.</summary>
    public ImageTensors Numbered() => new(Images.Name, Images.Images.clone(), arange(Images.Count, ScalarType.Int64));

    /// <summary>Draws scenes: each an item at a random place on a background at random.</summary>
    /// <param name="items">Grey items on black; pixels from 20 of 255 on belong to the item.</param>
    /// <param name="backgrounds">Colour images that are stretched over the scene; null paints waves and noise.</param>
    /// <param name="count">Scenes.</param>
    /// <param name="side">Height and width; at least that of the items.</param>
    /// <param name="rendering">How they look.</param>
    /// <param name="seed">Of items, places, colours and noise.</param>
    /// <exception cref="EspalierException">When items are not grey or do not fit, or backgrounds have no colours.</exception>
    public static SegmentationScenes Draw(ImageTensors items, ImageTensors? backgrounds, int count, int side, SceneRendering rendering, Seed seed)
    {
        long[] shape = items.Images.shape;
        EspalierException.Require(shape[1] == 1 && shape[2] <= side && shape[3] <= side, $"Items are grey images of at most {side}×{side} pixels, not [{string.Join(", ", shape[1..])}].");
        EspalierException.Require(backgrounds is null || backgrounds.Images.shape[1] == Channels, "Backgrounds are colour images.");
        EspalierException.Require(count > 0, $"{count} scenes are none; ask for at least 1.");
        int height = (int)shape[2], width = (int)shape[3], area = side * side;
        // The same seed gives the same scenes in either rendering.
        Random random = seed.Random("scenes"), noise = seed.Random("noise of scenes");
        byte[] pixels = new byte[count * Channels * area], itemPixels = [.. items.Images.bytes];
        long[] masks = new long[count * area], classes = [.. items.Labels.data<long>()], labels = new long[count];
        for (int n = 0; n < count; n++)
        {
            Span<byte> scene = pixels.AsSpan(n * Channels * area, Channels * area);
            Paint(scene, backgrounds, side, random);
            int item = random.Next(items.Count), top = random.Next(side - height + 1), left = random.Next(side - width + 1);
            double[] tint = [.. Enumerable.Range(0, Channels).Select(_ => 0.4 + (0.6 * random.NextDouble()))];
            labels[n] = classes[item];
            for (int i = 0; i < height * width; i++)
            {
                byte value = itemPixels[(item * height * width) + i];
                if (value >= ItemFrom)
                {
                    int at = ((top + (i / width)) * side) + left + (i % width);
                    masks[(n * area) + at] = labels[n] + 1;
                    for (int c = 0; c < Channels; c++)
                    {
                        scene[(c * area) + at] = (byte)(tint[c] * value);
                    }
                }
            }

            if (rendering is SceneRendering.Infrared)
            {
                Cool(scene, side, noise);
            }
        }

        return new SegmentationScenes(
            new ImageTensors($"{count} {rendering.ToString().ToLowerInvariant()} scenes of {items.Name}", tensor(pixels, [count, Channels, side, side]), tensor(labels)), tensor(masks, [count, side, side]), (int)classes.Max() + 2);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Images.Dispose();
        Masks.Dispose();
    }

    private static void Paint(Span<byte> scene, ImageTensors? backgrounds, int side, Random random)
    {
        int area = side * side;
        if (backgrounds is not null)
        {
            int height = (int)backgrounds.Images.shape[2], width = (int)backgrounds.Images.shape[3], size = Channels * height * width;
            ReadOnlySpan<byte> source = backgrounds.Images.bytes.Slice(random.Next(backgrounds.Count) * size, size);
            for (int i = 0; i < Channels * area; i++)
            {
                scene[i] = source[(i / area * height * width) + (i % area / side * height / side * width) + (i % side * width / side)];
            }

            return;
        }

        for (int c = 0; c < Channels; c++)
        {
            double across = random.NextDouble() * 0.6, down = random.NextDouble() * 0.6, start = random.NextDouble() * Math.Tau, level = 70 + (90 * random.NextDouble());
            for (int i = 0; i < area; i++)
            {
                scene[(c * area) + i] = (byte)Math.Clamp(level + (40 * Math.Sin((across * (i % side)) + (down * (i / side)) + start)) + (30 * (random.NextDouble() - 0.5)), 0, 255);
            }
        }
    }

    private static void Cool(Span<byte> scene, int side, Random noise)
    {
        int area = side * side;
        double[] heat = new double[area];
        for (int i = 0; i < area; i++)
        {
            heat[i] = 255 - ((scene[i] + scene[area + i] + scene[(2 * area) + i]) / 3.0);
        }

        heat = Blur(Blur(heat, side), side);
        for (int i = 0; i < area; i++)
        {
            byte value = (byte)Math.Clamp(70 + (0.45 * heat[i]) + (8 * (noise.NextDouble() - 0.5)), 0, 255);
            for (int c = 0; c < Channels; c++)
            {
                scene[(c * area) + i] = value;
            }
        }
    }

    // The mean of the 3×3 pixels around each, those within the scene.
    private static double[] Blur(double[] map, int side)
    {
        var blurred = new double[map.Length];
        for (int y = 0; y < side; y++)
        {
            for (int x = 0; x < side; x++)
            {
                double sum = 0;
                int count = 0;
                for (int v = Math.Max(0, y - 1); v <= Math.Min(side - 1, y + 1); v++)
                {
                    for (int u = Math.Max(0, x - 1); u <= Math.Min(side - 1, x + 1); u++)
                    {
                        sum += map[(v * side) + u];
                        count++;
                    }
                }

                blurred[(y * side) + x] = sum / count;
            }
        }

        return blurred;
    }
}
