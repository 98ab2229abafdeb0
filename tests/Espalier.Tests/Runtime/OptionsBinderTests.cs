using Espalier.Runtime;

namespace Espalier.Tests.Runtime;

public sealed class OptionsBinderTests
{
    [Flags]
    private enum Parts
    {
        None = 0,
        Biases = 1,
        MaskLora = 2,
    }

    private sealed record Inner
    {
        public int Depth { get; init; } = 1;
    }

    private sealed record Options
    {
        public double LearningRate { get; init => field = value > 0 ? value : throw new EspalierException("The learning rate must be positive."); } = 0.1;

        public int Steps { get; init; } = 10;

        public long? Limit { get; init; }

        public bool Quiet { get; init; }

        public string Name { get; init; } = "x";

        public Parts Parts { get; init; }

        public IReadOnlyList<double> Betas { get; init; } = [0.9];

        public Inner Inner { get; init; } = new();

        public Seed Seed { get; init; }
    }

    private sealed record Positional(int Rank, double Alpha = 2);

    [Theory]
    [InlineData("learning_rate")]
    [InlineData("learning-rate")]
    [InlineData("LearningRate")]
    [InlineData("learningrate")]
    public void A_name_is_the_same_in_every_spelling(string name) =>
        Bind((name, "1e-3")).LearningRate.ShouldBe(1e-3);

    [Fact]
    public void Values_come_as_text_or_as_yaml_reads_them()
    {
        Options options = Bind(
            ("steps", 20L), ("limit", "5"), ("quiet", "yes"), ("name", 7), ("parts", new List<object> { "biases", "mask_lora" }),
            ("betas", "0.8, 0.9"), ("inner", new Dictionary<object, object?> { ["depth"] = 3 }), ("seed", 4));
        options.Steps.ShouldBe(20);
        options.Limit.ShouldBe(5);
        options.Quiet.ShouldBeTrue();
        options.Name.ShouldBe("7");
        options.Parts.ShouldBe(Parts.Biases | Parts.MaskLora);
        options.Betas.ShouldBe([0.8, 0.9]);
        options.Inner.Depth.ShouldBe(3);
        options.Seed.Value.ShouldBe(4);
        options.LearningRate.ShouldBe(0.1);
        Bind(("parts", "biases+masklora")).Parts.ShouldBe(Parts.Biases | Parts.MaskLora);
        Bind(("limit", null)).Limit.ShouldBeNull();
        OptionsBinder.Bind<Positional>(new Dictionary<string, object?> { ["rank"] = 4 }).ShouldBe(new Positional(4));
    }

    [Theory]
    [InlineData("stepps", "3", "Did you mean 'steps'?")]
    [InlineData("steps", "many", "'the options.steps' takes a whole number, not 'many'")]
    [InlineData("steps", "0.5", "a whole number")]
    [InlineData("steps", "1e12", "a whole number")]
    [InlineData("quiet", "maybe", "true or false")]
    [InlineData("parts", "bias", "biases")]
    [InlineData("learning_rate", "-1", "must be positive")]
    [InlineData("betas", "0.9,fast", "betas[1]")]
    public void Wrong_names_and_values_are_named_with_what_is_possible(string name, string value, string expected) =>
        Should.Throw<EspalierException>(() => Bind((name, value))).Message.ShouldContain(expected);

    [Fact]
    public void A_name_that_comes_twice_or_is_missing_is_refused()
    {
        Should.Throw<EspalierException>(() => Bind(("learning_rate", 1), ("learning-rate", 2))).Message.ShouldContain("given twice");
        Should.Throw<EspalierException>(() => OptionsBinder.Bind<Positional>(new Dictionary<string, object?>())).Message.ShouldContain("'rank'");
    }

    private static Options Bind(params (string Name, object? Value)[] values) =>
        OptionsBinder.Bind<Options>(values.ToDictionary(v => v.Name, v => v.Value), "the options");
}
