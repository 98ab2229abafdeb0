using Espalier.Catalogue;
using Espalier.Checkpoints;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Verification;

public sealed class ParityVerifierTests
{
    [ParityOp("testing.echo")]
    internal static IReadOnlyDictionary<string, Tensor> Echo(ParityCase c) =>
        c.InputNames.ToDictionary(n => n, n => c.HasParameter("add") ? c.Input(n) + c.Parameter<double>("add") : c.Input(n).alias());

    [ParityOp("testing.throw")]
    internal static IReadOnlyDictionary<string, Tensor> Throw(ParityCase c) => throw new EspalierException("The sentence of the fault.");

    [ParityOp("testing.crash")]
    internal static IReadOnlyDictionary<string, Tensor> Crash(ParityCase c) =>
        new Dictionary<string, Tensor> { ["x"] = ones(2, 3).mm(ones(2, 3)) };

    [Fact]
    public void Lines_name_each_failure_and_end_with_one_count_per_system()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        Save(folder["a-good.safetensors"], "testing.echo", [("in.x", ones(2)), ("out.x", ones(2))]);
        Save(folder["b-off.safetensors"], "testing.echo", [("in.x", tensor(new[] { 1f, 2f })), ("out.x", tensor(new[] { 1f, 2.5f }))]);
        Save(folder["c-throws.safetensors"], "testing.throw", [("out.x", ones(1))]);
        Save(folder["d-crashes.safetensors"], "testing.crash", [("out.x", ones(1))]);
        Save(folder["e-unknown.safetensors"], "testing.ecko", [("out.x", ones(1))]);
        Save(folder["f-missing.safetensors"], "testing.echo", [("in.x", ones(1)), ("out.y", ones(1))]);
        Save(folder["g-parameters.safetensors"], "testing.echo", [("in.x", ones(1)), ("out.x", ones(1))], parameters: "{\"add\": \"much\"}");
        Save(folder["other.safetensors"], "else.echo", [("out.x", ones(1))], system: "else");
        SafeTensorsFile.Save(folder["no-case.safetensors"], [("w", ones(1))]);
        File.WriteAllText(folder["z-damaged.safetensors"], "not safetensors");

        ParityReport report = ParityVerifier.Run(folder.Path);
        report.Passed.ShouldBeFalse();
        string[] lines = [.. report.Lines];
        lines.Length.ShouldBe(11);
        lines[0].ShouldStartWith("b-off.safetensors (testing.echo): x differs at 1 of 2: largest error 5e-1 at [1], ours 2, reference 2.5");
        lines[1].ShouldBe("c-throws.safetensors (testing.throw): The sentence of the fault.");
        lines[2].ShouldStartWith("d-crashes.safetensors (testing.crash): ");
        lines[3].ShouldBe("e-unknown.safetensors (testing.ecko): no operation 'testing.ecko' is known. Did you mean 'testing.echo'?");
        lines[4].ShouldContain("y is missing");
        lines[5].ShouldContain("'add'");
        lines.ShouldContain("else: 0/1");
        lines.ShouldContain("testing: 1/7");
        lines.ShouldContain(l => l.StartsWith("z-damaged.safetensors (unreadable): "));
    }

    [Fact]
    public void A_system_can_be_picked_and_an_unknown_one_is_refused_with_the_nearest()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        Directory.CreateDirectory(folder["deep/er"]);
        Save(folder["deep/er/case.safetensors"], "testing.echo", [("in.x", ones(1)), ("out.x", ones(1))]);
        Save(folder["other.safetensors"], "else.echo", [("out.x", ones(1))], system: "else");
        ParityVerifier.Run(folder.Path, "testing").Lines.ShouldBe(["testing: 1/1"]);
        Should.Throw<EspalierException>(() => ParityVerifier.Run(folder.Path, "testin")).Message.ShouldContain("Did you mean 'testing'?");
        Should.Throw<EspalierException>(() => ParityVerifier.Run(folder["nowhere"])).Message.ShouldContain("does not exist");
        Should.Throw<EspalierException>(() => ParityVerifier.Run(Directory.CreateDirectory(folder["empty"]).FullName)).Message.ShouldContain("holds no reference cases");
    }

    [Theory]
    [InlineData(1.0, 1.0, true)]
    [InlineData(1.0001, 1.0, true)]
    [InlineData(1.01, 1.0, false)]
    [InlineData(double.NaN, double.NaN, true)]
    [InlineData(double.NaN, 1.0, false)]
    [InlineData(1.0, double.NaN, false)]
    [InlineData(double.PositiveInfinity, double.PositiveInfinity, true)]
    [InlineData(double.PositiveInfinity, double.NegativeInfinity, false)]
    [InlineData(1.0, double.PositiveInfinity, false)]
    public void Numbers_are_compared_within_tolerance_and_special_values_only_with_themselves(double ours, double theirs, bool passes)
    {
        using var scope = NewDisposeScope();
        (ParityComparison.Compare("x", tensor(ours), tensor(new[] { theirs }), 1e-3, 1e-5).Difference is null).ShouldBe(passes);
    }

    [Fact]
    public void Integers_and_booleans_must_be_equal_and_shapes_too()
    {
        using var scope = NewDisposeScope();
        long big = 1L << 60;
        ParityComparison.Compare("x", tensor(new[] { big + 1 }), tensor(new[] { big }), 1, 1).Difference.ShouldNotBeNull();
        ParityComparison.Compare("x", tensor(new[] { true, false }), tensor(new[] { true, true }), 1, 1).Difference.ShouldNotBeNull();
        ParityComparison.Compare("x", tensor(new[] { true, false }), tensor(new[] { true, false }), 0, 0).Difference.ShouldBeNull();
        ParityComparison.Compare("x", ones(2, 3), ones(3, 2), 1, 1).Difference!.ShouldContain("[2, 3]");
        ParityComparison.Compare("x", ones(1, 1), ones(1), 1, 1).Difference!.ShouldContain("shape");
    }

    [Fact]
    public void The_two_halves_of_a_complex_tensor_are_one()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        Tensor re = tensor(new[] { 1f, 2f }), im = tensor(new[] { 3f, 4f });
        Save(folder["complex.safetensors"], "testing.echo", [("in.z.re", re), ("in.z.im", im), ("out.z.re", re), ("out.z.im", im)]);
        Save(folder["wrong.safetensors"], "testing.echo", [("in.z.re", re), ("in.z.im", im), ("out.z.re", re), ("out.z.im", im + 1)]);
        ParityVerifier.Run(folder.Path).Lines[^1].ShouldBe("testing: 1/2");
    }

    private static void Save(string path, string op, (string, Tensor)[] tensors, string parameters = "{}", string system = "testing") =>
        SafeTensorsFile.Save(path, tensors, new Dictionary<string, string> { ["system"] = system, ["op"] = op, ["params"] = parameters, ["rtol"] = "1e-4", ["atol"] = "1e-5" });
}
