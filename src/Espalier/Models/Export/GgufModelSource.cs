using Espalier.Checkpoints;
using Espalier.Checkpoints.Gguf;
using static TorchSharp.torch;

namespace Espalier.Models.Export;

/// <summary>A GGUF file read as the checkpoint that it was made from: the checkpoint's names, shapes and arrangement.</summary>
internal sealed class GgufModelSource : ITensorSource
{
    private readonly GgufFile file;
    private readonly Dictionary<string, TensorRule> rules = new(StringComparer.Ordinal);

    /// <param name="file">The file; it stays the caller's.</param>
    /// <param name="rules">What became of each tensor.</param>
    public GgufModelSource(GgufFile file, IReadOnlyList<TensorRule> rules)
    {
        this.file = file;
        foreach (TensorRule rule in rules)
        {
            this.rules.TryAdd(rule.Source, rule);
        }

        Names = [.. this.rules.Keys];
    }

    public IReadOnlyList<string> Names { get; }

    public bool Contains(string name) => rules.TryGetValue(name, out TensorRule? rule) && file.Contains(rule.Target);

    public TensorInfo Info(string name)
    {
        TensorInfo there = file.Info(rules[name].Target);
        return there with { Name = name, Shape = rules[name].Way == Rearrangement.Transposed ? [.. there.Shape.Reverse()] : there.Shape };
    }

    public Tensor Read(string name, ScalarType? type = null)
    {
        using var scope = NewDisposeScope();
        TensorRule rule = rules[name];
        Tensor value = rule.ToSource(file.Read(rule.Target)).contiguous();
        return (type is { } wanted ? value.to(wanted) : value).MoveToOuterDisposeScope();
    }
}
