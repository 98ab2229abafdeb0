namespace Espalier.Models.Vision;

/// <summary>
/// LeNet-5 as the pruning literature has it (Caffe's, 431,080 weights and biases): two 5×5 convolutions, each with a pool, then linear maps, with ReLU
/// between these. Fields: <c>channels</c> (default 20, 50), <c>hidden</c> (default 500).
/// </summary>
internal static class LeNet
{
    public static void Build(VisionGraph graph, VisionConfig config)
    {
        IReadOnlyList<int> channels = config.Fields.WholeOrList("channels"), hidden = config.Fields.WholeOrList("hidden");
        channels = channels.Count == 0 ? [20, 50] : channels;
        VisionLayer x = graph.Input;
        for (int i = 0; i < channels.Count; i++)
        {
            x = graph.MaxPool(graph.Relu(graph.Conv($"conv{i + 1}", x, channels[i], 5, bias: true)), 2, 2);
        }

        Mlp.Head(graph, graph.Flatten(x), hidden.Count == 0 ? [500] : hidden, config.Classes);
    }
}

/// <summary>Linear maps with ReLU between. Field: <c>hidden</c> (default 300, 100: LeNet-300-100).</summary>
internal static class Mlp
{
    public static void Build(VisionGraph graph, VisionConfig config)
    {
        IReadOnlyList<int> hidden = config.Fields.WholeOrList("hidden");
        Head(graph, graph.Flatten(graph.Input), hidden.Count == 0 ? [300, 100] : hidden, config.Classes);
    }

    /// <summary>The maps <c>fc1</c>, <c>fc2</c>, …</summary>
    public static void Head(VisionGraph graph, VisionLayer x, IReadOnlyList<int> hidden, int classes)
    {
        for (int i = 0; i < hidden.Count; i++)
        {
            x = graph.Relu(graph.Linear($"fc{i + 1}", x, hidden[i]));
        }

        graph.Output(graph.Linear($"fc{hidden.Count + 1}", x, classes));
    }
}
