using Espalier.Pruning;

namespace Espalier.Tests.Pruning;

public sealed class SpeedTableTests
{
    [Fact]
    public void The_sentence_compares_with_the_dense_model_in_as_many_bits()
    {
        string faster = SpeedTable.Judge([Row("dense", "f32", 400, 10), Row("dense", "int4", 50, 30, "dense"), Row("pruned", "f32", 400, 10), Row("pruned", "int4", 33, 40, "bitmask")]);
        faster.ShouldStartWith("Pruning made it faster on this machine: 40 tokens/s");
        faster.ShouldContain("4.0 times the dense model in float32 and 1.33 times the dense model in int4");
    }

    [Fact]
    public void Where_packed_is_not_faster_the_first_words_say_so_and_a_pattern_is_named()
    {
        string slower = SpeedTable.Judge([Row("dense", "f32", 400, 10), Row("dense", "int4", 50, 40, "dense"), Row("pruned", "f32", 400, 10), Row("pruned", "int4", 40, 39, "bitmask")]);
        slower.ShouldStartWith("Packed, it is not clearly faster than the dense model in as many bits");
        slower.ShouldContain("2:4");
        string full = SpeedTable.Judge([Row("dense", "f32", 400, 10), Row("dense", "int4", 50, 40, "dense"), Row("pruned", "int4", 52, 20, "bitmask")]);
        full.ShouldContain("keep too much for a bit mask to pay");
        full.ShouldContain("pattern: structured");
    }

    private static SpeedRow Row(string model, string form, long megabytes, double speed, string code = "") => new(model, form, code, megabytes * 1_000_000, speed, speed * 10, null);
}
